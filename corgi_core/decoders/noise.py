"""The decoders' diffusion, in diffusers' schedulers: schedule, forward process, solver."""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

T = 1000


def shifted_cosine_betas(shift: float) -> np.ndarray:
    """β [T] of the cosine schedule with its log SNR moved by `shift` (Hoogeboom et al. 2023).

    log SNR(u) = −2 log tan(πu/2) + shift, at u = 1/T … 1; a negative shift is more noise, which
    pictures of large flat areas need, since little noise hides little of them.
    """
    u = np.linspace(0, 1, T + 1)[1:] * 0.999  # SNR(1) would be 0
    log_snr = -2 * np.log(np.tan(np.pi * u / 2)) + shift
    alpha_bar = np.concatenate([[1.0], 1 / (1 + np.exp(-log_snr))])
    betas: np.ndarray = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return betas


def _options(shift: float) -> dict[str, Any]:
    return {"trained_betas": shifted_cosine_betas(shift), "prediction_type": "sample"}


def forward_process(shift: float) -> DDPMScheduler:
    """q(x_t | x_0) as `add_noise(x_0, noise, t)`, and ᾱ as `alphas_cumprod`."""
    process: DDPMScheduler = DDPMScheduler(num_train_timesteps=T, **_options(shift))
    return process


def few_step_solver(shift: float, steps: int) -> DPMSolverMultistepScheduler:
    """DPM-Solver++(2M), Lu et al. 2022, set to `steps` steps that begin at pure noise."""
    solver: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=T, timestep_spacing="trailing", **_options(shift)
    )
    solver.set_timesteps(steps)
    return solver
