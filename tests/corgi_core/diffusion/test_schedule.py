"""Schedules, forward process and solvers against closed forms and against diffusers' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from corgi_core.diffusion.parameterization import to_x0
from corgi_core.diffusion.samplers import sample_ddim, sample_dpmpp, sample_unipc, timesteps_of
from corgi_core.diffusion.schedule import TIMESTEPS as T
from corgi_core.diffusion.schedule import Schedule

STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
    "steps_offset": 1,
}  # fmt: skip


def alpha_bar_of(shift: float) -> np.ndarray:
    """ᾱ from the definition of the shifted cosine schedule, by another way than β's product."""
    u = np.arange(1, T + 1) / T * 0.999
    cosine_snr = np.cos(np.pi * u / 2) ** 2 / np.sin(np.pi * u / 2) ** 2
    snr = cosine_snr * np.exp(shift)
    return snr / (1 + snr)


@pytest.mark.parametrize("shift", [0.0, -1.0, 1.5])
def test_betas_multiply_to_the_shifted_cosine_schedule(shift: float) -> None:
    betas = Schedule.shifted_cosine(shift).solver_config["trained_betas"]
    assert betas.shape == (T,)
    assert (betas > 0).all()
    assert (betas < 1).all()
    np.testing.assert_allclose(np.cumprod(1 - betas), alpha_bar_of(shift), rtol=1e-9)


def test_a_negative_shift_is_more_noise() -> None:
    assert (alpha_bar_of(-1.0) < alpha_bar_of(0.0)).all()


def test_the_forward_process_is_the_closed_form() -> None:
    x_0, noise = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    t = torch.tensor([0, 10, 500, 900, 999])
    alpha_bar = torch.from_numpy(alpha_bar_of(-1.0))[t].float().view(-1, 1, 1, 1)
    expected = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
    found = Schedule.shifted_cosine(-1.0).add_noise(x_0, noise, t)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def cases() -> list[tuple[Schedule, dict[str, Any]]]:
    """Schedules, and the configuration of diffusers' schedulers that says the same."""
    cosine = Schedule.shifted_cosine(-1.0)
    betas = cosine.solver_config["trained_betas"]
    zero_snr = STABLE_DIFFUSION | {"rescale_betas_zero_snr": True}
    return [
        (cosine, {"trained_betas": betas, "num_train_timesteps": T}),
        (Schedule.of_pipeline(STABLE_DIFFUSION), STABLE_DIFFUSION),
        (Schedule.of_pipeline(zero_snr), zero_snr),
    ]


@pytest.mark.parametrize(("schedule", "config"), cases())
def test_noise_is_added_bit_for_bit_as_by_diffusers(
    schedule: Schedule, config: Mapping[str, Any]
) -> None:
    process = DDPMScheduler(**config)
    x_0, noise, t = torch.randn(64, 3, 2, 2), torch.randn(64, 3, 2, 2), torch.arange(64) * 15
    expected = process.add_noise(x_0, noise, t.int())  # type: ignore[arg-type]
    assert torch.equal(schedule.add_noise(x_0, noise, t), expected)
    assert torch.equal(schedule.alphas_cumprod, process.alphas_cumprod)


SOLVERS = [
    (sample_dpmpp, DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    (sample_ddim, DPMSolverMultistepScheduler, {"solver_order": 1}),
    (sample_unipc, UniPCMultistepScheduler, {}),
]
ENDS = {"timestep_spacing": "trailing", "prediction_type": "sample"}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.mark.parametrize(("sampler", "kind", "options"), SOLVERS)
@pytest.mark.parametrize(
    ("schedule", "config"), [*cases(), (None, LINEAR), (Schedule.linear(), LINEAR)]
)
def test_a_sampler_is_diffusers_loop_bit_for_bit(
    sampler: Any, kind: Any, options: Any, schedule: Schedule | None, config: Mapping[str, Any]
) -> None:
    solver = kind.from_config(dict(config), **options, **ENDS)
    solver.set_timesteps(7)
    noise = torch.randn(5, 3, 4, 4)
    expected = noise
    for t in solver.timesteps:
        (expected,) = solver.step(torch.tanh(expected), t, expected, return_dict=False)
    found = sampler(lambda x, _: torch.tanh(x), noise.unsqueeze(1), 7, schedule)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_prediction_turned_into_x0_is_what_diffusers_solver_makes_of_it(prediction: str) -> None:
    config = STABLE_DIFFUSION | {"prediction_type": prediction}
    schedule = Schedule.of_pipeline(config)
    solver = DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing")
    solver.set_timesteps(7)
    noise = torch.randn(5, 4, 8, 8)
    expected = noise
    for t in solver.timesteps:
        (expected,) = solver.step(torch.sin(expected), t, expected, return_dict=False)
    kind = {"epsilon": "epsilon", "v_prediction": "v"}[prediction]
    found = sample_dpmpp(
        lambda x, t: to_x0(kind, x, torch.sin(x), schedule.alphas_cumprod[t]),
        noise.unsqueeze(1), 7, schedule,
    )  # fmt: skip
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 4, 12])
def test_the_solver_lands_on_a_constant_prediction(num_steps: int) -> None:
    """With the same x̂_0 at every step, it ends exactly there, from pure noise."""
    schedule, x_0 = Schedule.shifted_cosine(-1.0), torch.randn(2, 3, 4, 4)
    timesteps = timesteps_of("dpm++", num_steps, schedule)
    assert timesteps[0] == T - 1
    assert len(timesteps) == num_steps
    found = sample_dpmpp(lambda x, t: x_0, torch.randn(2, 1, 3, 4, 4), num_steps, schedule)
    torch.testing.assert_close(found, x_0, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 999, 1000])
def test_any_number_of_steps_begins_at_pure_noise(num_steps: int) -> None:
    """Also with the schedule of a pipeline that spaces its timesteps in another way."""
    timesteps = timesteps_of("dpm++", num_steps, Schedule.of_pipeline(STABLE_DIFFUSION))
    assert len(set(timesteps)) == num_steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 999


def test_the_solver_samples_a_gaussian_from_its_exact_denoiser() -> None:
    """Data N(0.3, 0.2²): x̂_0 is known in closed form, so the samples' moments must come out."""
    mean, std, shift = 0.3, 0.2, -1.0
    alpha_bar = alpha_bar_of(shift)

    def denoiser(x: torch.Tensor, t: int) -> torch.Tensor:
        a = float(alpha_bar[t])
        gain = np.sqrt(a) * std**2 / (a * std**2 + 1 - a)
        return mean + gain * (x - np.sqrt(a) * mean)

    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).view(-1, 1, 1, 1, 1)
    x = sample_dpmpp(denoiser, noise, 40, Schedule.shifted_cosine(shift))
    assert abs(float(x.mean()) - mean) < 0.01
    assert abs(float(x.std()) - std) < 0.01


@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_shrinking_is_the_expectation_at_kappa_1_alone(kappa: float) -> None:
    """Regression of u_0 ∼ N(0, 1/κ²) on u_t gives the slope of E[u_0 | u_t] in the docstring."""
    schedule, random = Schedule.linear(), torch.Generator().manual_seed(0)
    u_0, noise = torch.randn(2, 200_000, generator=random, dtype=torch.float64)
    u_0 /= kappa
    for timestep in (50, 300):
        t = torch.tensor(timestep)
        a = schedule.alphas_cumprod[t]
        u_t = schedule.add_noise(u_0, noise, t)
        slope = (u_0 @ u_t) / (u_t @ u_t)
        assert slope == pytest.approx(float(a.sqrt() / (a + kappa**2 * (1 - a))), rel=0.02)
        shrunk = schedule.shrink(torch.ones(1, dtype=torch.float64), t)
        assert (abs(float(shrunk / slope) - 1) < 0.02) == (kappa == 1)
