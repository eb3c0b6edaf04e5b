"""The diffusion against closed forms: schedule, forward process, few-step solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corgi_core.decoders.noise import T, few_step_solver, forward_process, shifted_cosine_betas


def alpha_bar_of(shift: float) -> np.ndarray:
    """ᾱ from the definition of the shifted cosine schedule, by another way than β's product."""
    u = np.arange(1, T + 1) / T * 0.999
    cosine_snr = np.cos(np.pi * u / 2) ** 2 / np.sin(np.pi * u / 2) ** 2
    snr = cosine_snr * np.exp(shift)
    return snr / (1 + snr)


@pytest.mark.parametrize("shift", [0.0, -1.0, 1.5])
def test_betas_multiply_to_the_shifted_cosine_schedule(shift: float) -> None:
    betas = shifted_cosine_betas(shift)
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
    found = forward_process(-1.0).add_noise(x_0, noise, t.int())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_the_solver_lands_on_a_constant_prediction(steps: int) -> None:
    """Told the same x̂_0 at every step, it ends exactly there, from pure noise."""
    solver, target = few_step_solver(-1.0, steps), torch.randn(2, 3, 4, 4)
    assert int(solver.timesteps[0]) == T - 1
    assert len(solver.timesteps) == steps
    x = torch.randn(2, 3, 4, 4)
    for t in solver.timesteps:
        (x,) = solver.step(target, t, x, return_dict=False)
    torch.testing.assert_close(x, target, atol=1e-4, rtol=0)


def test_the_solver_samples_a_gaussian_from_its_exact_denoiser() -> None:
    """Data N(0.3, 0.2²): x̂_0 is known in closed form, so the samples' moments must come out."""
    mean, deviation, shift = 0.3, 0.2, -1.0
    solver = few_step_solver(shift, 40)
    alpha_bar = alpha_bar_of(shift)
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).view(-1, 1, 1, 1)
    for t in solver.timesteps:
        a = float(alpha_bar[int(t)])
        gain = np.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        x_0 = mean + gain * (x - np.sqrt(a) * mean)
        (x,) = solver.step(x_0, t, x, return_dict=False)
    assert abs(float(x.mean()) - mean) < 0.01
    assert abs(float(x.std()) - deviation) < 0.01
