"""Samplers of the prior behind one signature, all in whitened coordinates u.

`ddpm` is the ancestral chain of equation (3). The others are diffusers' schedulers: whitened, the
shifted diffusion is the standard one, so every solver of the field serves it as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from corgi_core.diffusion.schedule import BETA_END, BETA_START, TIMESTEPS, Schedule, respaced
from corgi_core.errors import CorgiError

Denoiser = Callable[[Tensor, int], Tensor]
"""û_0 = f(u_t, t): u_t [n, d] and a timestep in 0 … T−1 to the predicted start [n, d]."""

SAMPLERS = ("ddpm", "ddim", "dpm++", "unipc")


def noise_for(seed: int, first: int, count: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [count, *shape] that depends on (seed, sample number) only.

    Sample `first + i` gets the same noise whatever the batch that it is drawn in.
    """
    draws = [
        torch.randn(shape, generator=torch.Generator().manual_seed(_sample_seed(seed, first + i)))
        for i in range(count)
    ]
    return torch.stack(draws)


def _sample_seed(seed: int, sample: int) -> int:
    return (seed * 1_000_003 + sample) % 2**63


def timesteps_of(sampler: str, steps: int) -> list[int]:
    """The timesteps at which `sample` will ask its denoiser, in their order.

    Raises CorgiError for an unknown sampler or an impossible number of steps.
    """
    if sampler == "ddpm":
        return respaced(TIMESTEPS, steps)
    return list(map(int, _diffusers_scheduler(sampler, steps).timesteps))


def sample(
    denoiser: Denoiser,
    noise: Tensor,
    steps: int,
    sampler: str = "ddpm",
) -> Tensor:
    """Draw u_0 [n, d] from noise [n, steps, d], whose first slice is u_T and the rest the chain's.

    Raises CorgiError as `timesteps_of` does.
    """
    if sampler == "ddpm":
        return _ancestral(denoiser, noise, timesteps_of(sampler, steps))
    scheduler = _diffusers_scheduler(sampler, steps)
    u = noise[:, 0]
    for t in map(int, scheduler.timesteps):
        u = scheduler.step(denoiser(u, t), t, u).prev_sample
    return u


def _ancestral(denoiser: Denoiser, noise: Tensor, timesteps: list[int]) -> Tensor:
    """Equation (3), respaced: from each timestep to the next, at last to −1, where u is u_0."""
    schedule = Schedule.linear()
    u = noise[:, 0]
    for i, (t, t_next) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True), start=1):
        u_0 = denoiser(u, t)
        u, variance = schedule.posterior(u, u_0, t, t_next)
        if t_next >= 0:
            u = u + math.sqrt(variance) * noise[:, i]
    return u


def _diffusers_scheduler(sampler: str, steps: int) -> Any:
    if sampler not in SAMPLERS:
        raise CorgiError(f"there is no sampler {sampler!r}", f"choose one of {', '.join(SAMPLERS)}")
    respaced(TIMESTEPS, steps)  # refuses what diffusers would stumble over
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        # DDIM is the solver's first order. (diffusers' DDIMScheduler steps by ⌊T/steps⌋ from
        # wherever it is, which misses the next timestep when steps do not divide T.)
        "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
        "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        "unipc": (UniPCMultistepScheduler, {}),
    }
    kind, options = kinds[sampler]
    scheduler = kind(
        beta_start=BETA_START, beta_end=BETA_END, beta_schedule="linear",
        prediction_type="sample", timestep_spacing="trailing", **options,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    return scheduler
