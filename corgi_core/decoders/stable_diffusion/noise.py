"""The pipeline's own diffusion: forward process, what its UNet predicts, a solver of few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")


def forward_process(scheduler: Mapping[str, Any]) -> DDPMScheduler:
    """q(x_t | x_0) as `add_noise(x_0, noise, t)`, from a pipeline's scheduler configuration."""
    process: DDPMScheduler = DDPMScheduler.from_config(dict(scheduler))
    return process


def few_step_solver(scheduler: Mapping[str, Any], steps: int) -> DPMSolverMultistepScheduler:
    """DPM-Solver++(2M), Lu et al. 2022, set to `steps` steps that begin at pure noise.

    Pipelines come with other spacings, which with few steps begin where a picture is left
    (Lin et al. 2024, section 3.3), and with many fall together.
    """
    solver: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler.from_config(
        dict(scheduler), algorithm_type="dpmsolver++", timestep_spacing="trailing"
    )
    solver.set_timesteps(steps)
    return solver


def target(process: DDPMScheduler, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the UNet is to predict at timesteps t [n]: the noise ε, or the velocity

    v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans and Ho 2022), as the scheduler says.
    """
    if process.config["prediction_type"] == "epsilon":
        return noise
    return process.get_velocity(x_0, noise, t.int())  # type: ignore[arg-type]
