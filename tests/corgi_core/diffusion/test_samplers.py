"""The deterministic samplers against the algorithms as their papers print them, in numpy."""

import itertools
import math

import numpy as np
import pytest
import torch

from corgi_core.diffusion.samplers import SAMPLERS, timesteps_of
from corgi_core.diffusion.schedule import respaced

T = 1000
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
N, D = 4, 6


def predicts(x, t):
    """Any smooth û_0(u_t, t)."""
    return np.tanh(x @ np.linspace(-0.4, 0.5, D * D).reshape(D, D)) + t / T


def starts():
    return np.random.default_rng(3).standard_normal((N, D))


def ours(sampler, steps):
    noise = torch.from_numpy(starts()).unsqueeze(1).repeat(1, steps, 1)
    denoiser = lambda u, t: torch.from_numpy(predicts(u.numpy(), t))  # noqa: E731
    return SAMPLERS[sampler](denoiser, noise, steps).numpy()


def ddim(steps):
    """Song et al. (2021), equation (12) with σ = 0."""
    x = starts()
    for t, s in itertools.pairwise([*respaced(T, steps), -1]):
        a_t, a_s = ALPHA_BAR[t], ALPHA_BAR[s] if s >= 0 else 1.0
        x_0 = predicts(x, t)
        noise = (x - math.sqrt(a_t) * x_0) / math.sqrt(1 - a_t)
        x = math.sqrt(a_s) * x_0 + math.sqrt(1 - a_s) * noise
    return x


def _half_log_snr(t):
    alpha, sigma = math.sqrt(ALPHA_BAR[t]), math.sqrt(1 - ALPHA_BAR[t])
    return alpha, sigma, math.log(alpha / sigma)


def dpm_solver_pp(steps):
    """Lu et al. (2022), algorithm 2 (2M); the last step, to no noise at all, is û_0 itself."""
    times = respaced(T, steps)
    x, before, h_before = starts(), None, None
    for t, s in itertools.pairwise(times):
        (_, sigma_t, lambda_t), (alpha_s, sigma_s, lambda_s) = _half_log_snr(t), _half_log_snr(s)
        h, now = lambda_s - lambda_t, predicts(x, t)
        r = h_before / h if h_before is not None else None
        d = now if before is None else (1 + 1 / (2 * r)) * now - 1 / (2 * r) * before
        x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * d
        before, h_before = now, h
    return predicts(x, times[-1])


def unipc(steps):
    """Zhao et al. (2023): UniP-2 and UniC-2 for data prediction, B₂(h) = e^h − 1."""
    times = respaced(T, steps)
    x, before, corrected = starts(), None, None
    lambda_before = None
    for i, t in enumerate(times):
        now = predicts(x, t)
        if corrected is not None:  # UniC: the step that led here, again, with what is known now
            x = corrected(now)
        if i + 1 == len(times):
            return now  # to no noise: û_0 of the uncorrected point, as no order is left
        (_, sigma_t, lambda_t) = _half_log_snr(t)
        (alpha_s, sigma_s, lambda_s) = _half_log_snr(times[i + 1])
        h = lambda_s - lambda_t
        base = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * now
        b_h = math.expm1(-h)
        if before is None:
            x, corrected = base, _corrector(base, alpha_s, b_h, now, h, None, None)
        else:
            r = (lambda_before - lambda_t) / h
            d_1 = (before - now) / r
            x = base - alpha_s * b_h * 0.5 * d_1
            corrected = _corrector(base, alpha_s, b_h, now, h, r, d_1)
        before, lambda_before = now, lambda_t
    raise AssertionError


def _corrector(base, alpha_s, b_h, start, h, r, d_1):
    def correct(end):
        if r is None:
            return base - alpha_s * b_h * 0.5 * (end - start)
        phi = math.expm1(-h) / -h - 1
        right = [phi / b_h, (phi / -h - 0.5) * 2 / b_h]
        rho = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), right)
        return base - alpha_s * b_h * (rho[0] * d_1 + rho[1] * (end - start))

    return correct


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 64])
@pytest.mark.parametrize(
    ("sampler", "published"), [("ddim", ddim), ("dpm++", dpm_solver_pp), ("unipc", unipc)]
)
def test_a_sampler_is_the_published_algorithm(sampler, published, steps):
    np.testing.assert_allclose(ours(sampler, steps), published(steps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3, 64, 1000])
def test_a_sampler_says_at_which_timesteps_it_asks(sampler, steps):
    asked = []
    noise = torch.zeros(1, steps, 2)
    SAMPLERS[sampler](lambda u, t: (asked.append(t), u)[1], noise, steps)
    assert asked == timesteps_of(sampler, steps)
    assert asked[0] == T - 1
