"""Classifier-free guidance, and conversions between x_0, ε and v, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from corgi_core.diffusion.guidance import guided
from corgi_core.diffusion.parameterization import PARAMETERIZATIONS, target, to_x0
from corgi_core.diffusion.schedule import Schedule
from corgi_core.errors import CorgiError

value = st.floats(-100, 100)


@given(uncond=value, cond=value, weight=st.floats(-1, 9))
def test_guidance_is_the_papers_with_its_weight_counted_from_one(
    uncond: float, cond: float, weight: float
) -> None:
    """Ho and Salimans (2022), equation (6): (1 + w) ε(z, c) − w ε(z), where our scale is 1 + w."""
    expected = (1 + weight) * cond - weight * uncond
    assert guided(uncond, cond, 1 + weight) == pytest.approx(expected, abs=1e-9)


def test_guidance_takes_tensors_and_arrays() -> None:
    uncond, cond = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    found = guided(uncond, cond, 2.5)
    assert torch.equal(found, uncond + 2.5 * (cond - uncond))
    np.testing.assert_array_equal(guided(uncond.numpy(), cond.numpy(), 2.5), found.numpy())


@pytest.mark.parametrize("kind", PARAMETERIZATIONS)
@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 3, 5, 5)])
def test_a_true_prediction_determines_x0_exactly(kind: str, shape: tuple[int, ...]) -> None:
    x_0, noise = torch.randn(2, *shape, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9999, 0.5, 0.01, 1e-4], dtype=torch.float64)
    alpha, sigma = (a.view(4, *[1] * (len(shape) - 1)) for a in
                    (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))  # fmt: skip
    x_t = alpha * x_0 + sigma * noise
    predicted = target(kind, x_0, noise, alpha_bar)
    torch.testing.assert_close(to_x0(kind, x_t, predicted, alpha_bar), x_0)


def test_targets_are_those_of_diffusers() -> None:
    x_0, noise = torch.randn(2, 4, 3, 5, 5)
    schedule = Schedule.shifted_cosine(-1.0)
    process = DDPMScheduler(trained_betas=schedule.solver_config["trained_betas"])
    t = torch.tensor([0, 300, 600, 999])
    alpha_bar = schedule.alphas_cumprod[t]
    velocity = process.get_velocity(x_0, noise, t.int())  # type: ignore[arg-type]
    assert torch.equal(target("v", x_0, noise, alpha_bar), velocity)
    assert torch.equal(target("epsilon", x_0, noise, alpha_bar), noise)
    assert torch.equal(target("x0", x_0, noise, alpha_bar), x_0)


def test_one_alpha_bar_may_serve_all_samples() -> None:
    x_t, predicted = torch.randn(2, 4, 3, 5, 5)
    each = to_x0("v", x_t, predicted, torch.full((4,), 0.3))
    assert torch.equal(to_x0("v", x_t, predicted, torch.tensor(0.3)), each)


def test_an_unknown_parameterization_is_refused() -> None:
    with pytest.raises(CorgiError, match="x0, epsilon, v"):
        target("score", torch.zeros(1), torch.zeros(1), torch.tensor(0.5))
    with pytest.raises(CorgiError, match="x0, epsilon, v"):
        to_x0("score", torch.zeros(1), torch.zeros(1), torch.tensor(0.5))
