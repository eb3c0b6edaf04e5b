"""The diffusion, once, for every prior: the schedule, equations (1)–(4), and the whitened view.

With u = (z − μ)/(κσ) the shifted diffusion of the paper is exactly the standard DDPM in u. So
everything here is written in u, where the marginal is N(√ᾱ_t u_0, 1 − ᾱ_t), and the bank of
Gaussians owns the change of variables. The equations as printed, in z, are the oracle of the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from corgi_core.errors import CorgiError

TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02


@dataclass(frozen=True)
class Schedule:
    """β linear from 1e-4 to 0.02 in T = 1000 steps; timestep t = 0 … T−1 holds the paper's t + 1.

    Tensors are [T], float64: betas, alphas = 1 − β, alphas_cumprod = ᾱ.
    """

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor

    @classmethod
    def linear(cls, timesteps: int = TIMESTEPS) -> Schedule:
        betas = torch.linspace(BETA_START, BETA_END, timesteps, dtype=torch.float64)
        alphas = 1 - betas
        return cls(betas, alphas, torch.cumprod(alphas, dim=0))

    def add_noise(self, u_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """u_t ∼ q(u_t | u_0), equation (2) whitened. u_0, noise [n, …, d]; t [n, …] in 0 … T−1."""
        a = self.alphas_cumprod.to(u_0.device)[t].to(u_0.dtype).unsqueeze(-1)
        return a.sqrt() * u_0 + (1 - a).sqrt() * noise

    def expected_start(self, u_t: Tensor, t: Tensor) -> Tensor:
        """E[u_0 | u_t] = √ᾱ_t u_t of a standard Gaussian's u_0. u_t [n, …, d]; t [n, …]."""
        a = self.alphas_cumprod.to(u_t.device)[t].to(u_t.dtype).unsqueeze(-1)
        return a.sqrt() * u_t

    def posterior(self, u_t: Tensor, u_0: Tensor, t: int, t_next: int) -> tuple[Tensor, float]:
        """Mean [n, d] and variance of q(u_{t_next} | u_t, u_0), equation (3) whitened.

        `t_next` < t may skip timesteps (a respaced chain, whose α is ᾱ_t / ᾱ_{t_next}); −1 is the
        end of the chain, where ᾱ = 1 and the mean is u_0 itself.
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

        The divergence of equation (3) from the same with û_0 is this times ‖u_0 − û_0‖², for its
        means differ by a (u_0 − û_0) and a² / β̃_t = SNR_{t−1} − SNR_t (Kingma et al., 2021). At
        t = 1 it is the negative log-likelihood of u_0 under N(û_0, β_1), less its constant.
        """
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        weights = (snr[:-1] - snr[1:]) / 2
        first = 1 / (2 * self.betas[:1])
        return torch.cat([first, weights]).to(t.device)[t].float()


def weighted_error(x_0: Tensor, predicted: Tensor, weights: Tensor) -> Tensor:
    """Mean of w_t ‖x_0 − x̂_0‖² / d. x_0, predicted [n, …, d]; weights [n, …].

    With z and the P2 weights it is equation (4); with u and `kl_weights` the divergence that (4)
    simplifies, in nats a coordinate.
    """
    return (weights * (x_0 - predicted).square().mean(dim=-1)).mean()


def respaced(timesteps: int, steps: int) -> list[int]:
    """`steps` of the timesteps T−1 … 0, evenly spaced, descending, the first always T−1.

    The spacing that diffusers calls "trailing". Raises CorgiError outside 1 … T.
    """
    if not 1 <= steps <= timesteps:
        raise CorgiError(
            f"sampling in {steps} steps is impossible", f"choose between 1 and {timesteps} steps"
        )
    return [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]
