"""The noise schedules, and equations (1)–(4) in whitened coordinates.

With u = (z − μ)/(κσ) the shifted diffusion of the paper is exactly the standard DDPM in u. So
everything here is written in u, where the marginal is N(√ᾱ_t u_0, 1 − ᾱ_t), and the bank of
Gaussians owns the change of variables. The equations as printed, in z, are the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from corgi_core.diffusion.parameterization import trailing
from corgi_core.errors import CorgiError

TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02
LONGEST_PERIOD = 10_000  # of the timestep features


@dataclass(frozen=True)
class Schedule:
    """A noise schedule of T timesteps; timestep t = 0 … T−1 holds the paper's t + 1.

    betas, alphas = 1 − β and alphas_cumprod = ᾱ are [T]. `solver_config` describes the same
    schedule to diffusers' solvers.

    Examples:
        >>> schedule = Schedule.linear()
        >>> schedule.num_timesteps, round(float(schedule.alphas_cumprod[-1]), 7)
        (1000, 4.04e-05)
    """

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor
    solver_config: Mapping[str, Any]

    @classmethod
    def linear(cls) -> Self:
        """β linear from 1e-4 to 0.02, T = 1000 (Ho et al., 2020), in float64: the prior's."""
        betas = torch.linspace(BETA_START, BETA_END, TIMESTEPS, dtype=torch.float64)
        config = {"beta_start": BETA_START, "beta_end": BETA_END, "beta_schedule": "linear"}
        return cls._of(betas, config)

    @classmethod
    def shifted_cosine(cls, shift: float) -> Self:
        """The cosine schedule with its log SNR moved by `shift`, in float32: the decoders'.

        Hoogeboom et al. (2023): log SNR(u) = −2 log tan(πu/2) + shift at u = 1/T … 1. A negative
        shift is more noise, which images of large flat areas need, since little noise hides little
        of them.
        """
        u = np.linspace(0, 1, TIMESTEPS + 1)[1:] * 0.999  # SNR(1) would be 0
        log_snr = -2 * np.log(np.tan(np.pi * u / 2)) + shift
        alphas_cumprod = np.concatenate([[1.0], 1 / (1 + np.exp(-log_snr))])
        betas = 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]
        return cls._of(torch.from_numpy(betas).float(), {"trained_betas": betas})

    @classmethod
    def of_pipeline(cls, scheduler: Mapping[str, Any]) -> Self:
        """The schedule of a diffusers pipeline, from its scheduler's configuration."""
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        process = DDPMScheduler.from_config(dict(scheduler))
        return cls(process.betas, process.alphas, process.alphas_cumprod, dict(scheduler))

    @classmethod
    def _of(cls, betas: Tensor, solver_config: Mapping[str, Any]) -> Self:
        alphas = 1 - betas
        return cls(betas, alphas, torch.cumprod(alphas, dim=0), solver_config)

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.betas)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t ∼ q(x_t | x_0), equation (2) whitened. x_0, noise [n, …, *any]; t [n, …]."""
        a = self._alphas_cumprod_at(t, x_0)
        return a.sqrt() * x_0 + (1 - a).sqrt() * noise

    def shrink(self, u_t: Tensor, t: Tensor) -> Tensor:
        """√ᾱ_t u_t, which is E[u_0 | u_t] if u_0 ∼ N(0, I). u_t [n, …, d]; t [n, …].

        If u_0 ∼ N(0, κ⁻² I), as the whitened points of a Gaussian are whose σ is scaled by κ, then
        E[u_0 | u_t] = √ᾱ_t / (ᾱ_t + κ² (1 − ᾱ_t)) u_t, which is the same at κ = 1 alone.
        """
        return self._alphas_cumprod_at(t, u_t).sqrt() * u_t

    def posterior(self, u_t: Tensor, u_0: Tensor, t: int, t_next: int) -> tuple[Tensor, float]:
        """Mean and variance of q(u_{t_next} | u_t, u_0), equation (3) whitened.

        Args:
            u_t: the noisy data [n, *any].
            u_0: the data, or a prediction of it [n, *any].
            t: the timestep of u_t.
            t_next: an earlier timestep. More than one earlier gives a respaced chain, whose α is
                ᾱ_t / ᾱ_{t_next}. −1 is the end of the chain, where ᾱ = 1 and the mean is u_0.

        Returns:
            The mean [n, *any] and the variance of every coordinate.
        """
        a_t = float(self.alphas_cumprod[t])
        a_next = float(self.alphas_cumprod[t_next]) if t_next >= 0 else 1.0
        alpha = a_t / a_next
        beta = 1 - alpha
        of_u_0 = beta * math.sqrt(a_next) / (1 - a_t)
        of_u_t = math.sqrt(alpha) * (1 - a_next) / (1 - a_t)
        return of_u_0 * u_0 + of_u_t * u_t, beta * (1 - a_next) / (1 - a_t)

    def p2_weights(self, t: Tensor, gamma: float) -> Tensor:
        """w_t = (1 + SNR_t)^{−γ} = (1 − ᾱ_t)^γ of equation (4), for t of any shape."""
        return (1 - self.alphas_cumprod.to(t.device)[t]).pow(gamma).float()

    def kl_weights(self, t: Tensor) -> Tensor:
        """½ (SNR_{t−1} − SNR_t), for t of any shape; 1 / (2 β_1) at the paper's t = 1.

        The divergence of equation (3) from the same with û_0 is this times ‖u_0 − û_0‖², because
        its means differ by a (u_0 − û_0) and a² / β̃_t = SNR_{t−1} − SNR_t (Kingma et al., 2021).
        At t = 1 it is the negative log-likelihood of u_0 under N(û_0, β_1), without its constant.
        """
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        weights = (snr[:-1] - snr[1:]) / 2
        first = 1 / (2 * self.betas[:1])
        return torch.cat([first, weights]).to(t.device)[t].float()

    def _alphas_cumprod_at(self, t: Tensor, x: Tensor) -> Tensor:
        """ᾱ_t in x's dtype, with dimensions to multiply x."""
        return trailing(self.alphas_cumprod.to(x.device)[t].to(x.dtype), x)


def weighted_error(x_0: Tensor, predicted: Tensor, weights: Tensor) -> Tensor:
    """Mean of w_t ‖x_0 − x̂_0‖² / d. x_0, predicted [n, …, d]; weights [n, …].

    With z and the P2 weights it is equation (4). With u and `kl_weights` it is the divergence that
    (4) simplifies, in nats a coordinate.
    """
    return (weights * (x_0 - predicted).square().mean(dim=-1)).mean()


def respaced(timesteps: int, num_steps: int) -> list[int]:
    """`num_steps` of the timesteps T−1 … 0, evenly spaced, descending, the first always T−1.

    The spacing that diffusers calls "trailing". Raises CorgiError outside 1 … T.

    Examples:
        >>> respaced(1000, 4)
        [999, 749, 499, 249]
    """
    if not 1 <= num_steps <= timesteps:
        raise CorgiError(
            f"sampling in {num_steps} steps is impossible",
            f"choose between 1 and {timesteps} steps",
        )
    return [round(timesteps - i * timesteps / num_steps) - 1 for i in range(num_steps)]


def timestep_features(t: Tensor, width: int) -> Tensor:
    """A timestep as a network reads it: sines and cosines of many periods (DDPM, appendix B).

    Timesteps t [...] → float32 [..., width], width being even.

    Examples:
        >>> timestep_features(torch.tensor([0]), 4)
        tensor([[0., 0., 1., 1.]])
    """
    half = width // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t.device) / half)
    angles = t.unsqueeze(-1).float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
