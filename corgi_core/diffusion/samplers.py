"""The samplers, one function each, with one signature; `SAMPLERS` finds them by name.

All of them ask a denoiser for x̂_0 and run over a `Schedule`, the prior's in whitened coordinates:
there the shifted diffusion is the standard one, so every solver of the field serves it as it is.

Args of every sampler:
    denoiser: x̂_0 = f(x_t, t), of x_t [n, *any] and a timestep t in 0 … T−1.
    noise: standard normal [n, m, *any]. noise[:, 0] is x_T. `sample_ddpm` adds noise[:, i] in its
        step i and so needs m = num_steps; the others are deterministic and need m = 1.
    num_steps: how often the denoiser is asked, 1 … T.
    schedule: the noise schedule; the prior's linear one by default.

Each returns samples x_0 [n, *any] and raises CorgiError for an impossible number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from corgi_core.diffusion.schedule import Schedule, respaced
from corgi_core.errors import CorgiError

Denoiser = Callable[[Tensor, int], Tensor]


class Sampler(Protocol):
    """A function from noise to samples, as the module describes."""

    def __call__(
        self, denoiser: Denoiser, noise: Tensor, num_steps: int, schedule: Schedule | None = None
    ) -> Tensor:
        """Samples x_0 [n, *any]."""


def sample_ddpm(
    denoiser: Denoiser, noise: Tensor, num_steps: int, schedule: Schedule | None = None
) -> Tensor:
    """Ancestral sampling by equation (3): Ho et al. (2020), respaced as in Nichol et al. (2021)."""
    schedule = schedule or Schedule.linear()
    timesteps = timesteps_of("ddpm", num_steps, schedule)
    x = noise[:, 0]
    for i, (t, t_next) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True), start=1):
        x, variance = schedule.posterior(x, denoiser(x, t), t, t_next)
        if t_next >= 0:
            x = x + math.sqrt(variance) * noise[:, i]
    return x


def sample_ddim(
    denoiser: Denoiser, noise: Tensor, num_steps: int, schedule: Schedule | None = None
) -> Tensor:
    """DDIM with η = 0: Song et al. (2021)."""
    return _solve("ddim", denoiser, noise, num_steps, schedule)


def sample_dpmpp(
    denoiser: Denoiser, noise: Tensor, num_steps: int, schedule: Schedule | None = None
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. (2022)."""
    return _solve("dpm++", denoiser, noise, num_steps, schedule)


def sample_unipc(
    denoiser: Denoiser, noise: Tensor, num_steps: int, schedule: Schedule | None = None
) -> Tensor:
    """UniPC of order 2: Zhao et al. (2023)."""
    return _solve("unipc", denoiser, noise, num_steps, schedule)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm++": sample_dpmpp,
    "unipc": sample_unipc,
}


def sampler_named(name: str) -> Sampler:
    """The sampler of `SAMPLERS`; raises CorgiError for an unknown name."""
    if name not in SAMPLERS:
        raise CorgiError(f"there is no sampler {name!r}", f"choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def timesteps_of(sampler: str, num_steps: int, schedule: Schedule | None = None) -> list[int]:
    """The timesteps at which a sampler asks its denoiser, in their order.

    Raises CorgiError for an unknown sampler or an impossible number of steps.

    Examples:
        >>> timesteps_of("ddpm", 4)
        [999, 749, 499, 249]
    """
    sampler_named(sampler)
    schedule = schedule or Schedule.linear()
    if sampler == "ddpm":
        return respaced(schedule.num_timesteps, num_steps)
    return list(map(int, _solver(sampler, num_steps, schedule).timesteps))


def noise_for(seed: int, sample_ids: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [len(sample_ids), *shape]: row i depends on (seed, sample_ids[i]) only.

    A sample gets the same noise in whatever batch it is sampled.
    """
    seeds = [sample_id_of(seed, sample) for sample in sample_ids]
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(each)) for each in seeds]
    )


def sample_id_of(seed: int, sample_id: int) -> int:
    """The sample of seed 0 that has the same noise: rows of several seeds fit into one batch."""
    return (seed * 1_000_003 + sample_id) % 2**63


def _solve(
    name: str, denoiser: Denoiser, noise: Tensor, num_steps: int, schedule: Schedule | None
) -> Tensor:
    """Sampling by one of diffusers' solvers, from pure noise."""
    solver = _solver(name, num_steps, schedule or Schedule.linear())
    x = noise[:, 0]
    for t in map(int, solver.timesteps):
        x = solver.step(denoiser(x, t), t, x).prev_sample
    return x


def _solver(name: str, num_steps: int, schedule: Schedule) -> Any:
    """A diffusers scheduler, set to `num_steps` steps that begin at pure noise.

    Pipelines come with other spacings of timesteps. With few steps these begin where an image is
    left (Lin et al., 2024, section 3.3), and with many, timesteps coincide.
    """
    respaced(schedule.num_timesteps, num_steps)  # refuses what diffusers fails on
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        # DDIM is the solver's first order. (diffusers' DDIMScheduler steps by ⌊T/steps⌋ from
        # wherever it is, which misses the next timestep when steps do not divide T.)
        "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
        "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        "unipc": (UniPCMultistepScheduler, {}),
    }
    kind, options = kinds[name]
    options |= {"prediction_type": "sample", "timestep_spacing": "trailing"}
    solver = kind.from_config(dict(schedule.solver_config), **options)
    solver.set_timesteps(num_steps)
    return solver
