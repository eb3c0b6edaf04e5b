"""The diffusion in whitened coordinates against the paper's equations (1)–(3), as printed, in z."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.diffusion.samplers import SAMPLERS, noise_for, sample_ddpm, sampler_named
from corgi_core.diffusion.schedule import Schedule, respaced, weighted_error
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank

T = 1000
# The oracle's own schedule, in numpy: the paper's t = 1 … T, index 0 being ᾱ_0 = 1.
BETA = np.concatenate([[0.0], np.linspace(1e-4, 0.02, T)])
ALPHA = 1 - BETA
ALPHA_BAR = np.cumprod(ALPHA)

shift = st.floats(-3, 3)
scale = st.floats(0.05, 5)
value = st.floats(-4, 4)
step = st.integers(1, T)
EXACT = {"rtol": 0, "atol": 1e-10}


def equation_1(z_previous, mu, sigma, t):
    """Mean and deviation of q(z_t | z_{t−1})."""
    s_t = (1 - np.sqrt(ALPHA[t])) * mu
    return np.sqrt(ALPHA[t]) * z_previous + s_t, np.sqrt(BETA[t]) * sigma


def equation_2(z_0, mu, sigma, t):
    """Mean and deviation of q(z_t | z_0)."""
    root = np.sqrt(ALPHA_BAR[t])
    return root * z_0 + (1 - root) * mu, np.sqrt(1 - ALPHA_BAR[t]) * sigma


def equation_3(z_t, z_0, mu, sigma, t):
    """Mean and deviation of q(z_{t−1} | z_t, z_0), with a, b, e and β̃ as printed."""
    rest = 1 - ALPHA_BAR[t]
    a = BETA[t] * np.sqrt(ALPHA_BAR[t - 1]) / rest
    b = np.sqrt(ALPHA[t]) * (1 - ALPHA_BAR[t - 1]) / rest
    e = BETA[t] * (1 - np.sqrt(ALPHA_BAR[t - 1])) / rest
    s_t = (1 - np.sqrt(ALPHA[t])) * mu
    beta_tilde = BETA[t] * (1 - ALPHA_BAR[t - 1]) / rest
    return a * z_0 + b * (z_t - s_t) + e * mu, np.sqrt(beta_tilde) * sigma


@given(z_0=value, noise=value, mu=shift, sigma=scale, t=step)
def test_forward_marginal_is_equation_2(z_0, noise, mu, sigma, t):
    mean, deviation = equation_2(z_0, mu, sigma, t)
    u_0 = torch.tensor([(z_0 - mu) / sigma], dtype=torch.float64)
    u_t = Schedule.linear().add_noise(
        u_0, torch.tensor([noise], dtype=torch.float64), torch.tensor(t - 1)
    )
    np.testing.assert_allclose(mu + sigma * u_t.item(), mean + deviation * noise, **EXACT)


@given(z_0=value, mu=shift, sigma=scale)
@settings(max_examples=20)
def test_equation_1_iterated_gives_the_marginal(z_0, mu, sigma):
    mean, variance = z_0, 0.0
    schedule = Schedule.linear()
    for t in range(1, T + 1):
        mean, deviation = equation_1(mean, mu, sigma, t)
        variance = ALPHA[t] * variance + deviation**2
    u_0 = torch.tensor([(z_0 - mu) / sigma], dtype=torch.float64)
    still = schedule.add_noise(u_0, torch.zeros(1, dtype=torch.float64), torch.tensor(T - 1))
    one = schedule.add_noise(u_0, torch.ones(1, dtype=torch.float64), torch.tensor(T - 1))
    np.testing.assert_allclose(mu + sigma * still.item(), mean, **EXACT)
    np.testing.assert_allclose(sigma * (one - still).item(), np.sqrt(variance), **EXACT)


@given(z_t=value, z_0=value, mu=shift, sigma=scale, t=step)
def test_posterior_is_equation_3(z_t, z_0, mu, sigma, t):
    mean, deviation = equation_3(z_t, z_0, mu, sigma, t)
    u_t, u_0 = (torch.tensor([(z - mu) / sigma], dtype=torch.float64) for z in (z_t, z_0))
    u_mean, u_variance = Schedule.linear().posterior(u_t, u_0, t - 1, t - 2)
    np.testing.assert_allclose(mu + sigma * u_mean.item(), mean, **EXACT)
    np.testing.assert_allclose(sigma * u_variance**0.5, deviation, **EXACT)


@given(z_t=value, z_0=value, t=st.integers(2, T), mu=shift, sigma=scale)
def test_posterior_is_bayes_rule_on_equations_1_and_2(z_t, z_0, t, mu, sigma):
    """q(z_{t−1} | z_t, z_0) ∝ q(z_t | z_{t−1}) q(z_{t−1} | z_0), by precision weighting."""
    prior_mean, prior_sd = equation_2(z_0, mu, sigma, t - 1)
    offset = (1 - np.sqrt(ALPHA[t])) * mu
    likelihood_mean = (z_t - offset) / np.sqrt(ALPHA[t])
    likelihood_var = BETA[t] * sigma**2 / ALPHA[t]
    precision = 1 / prior_sd**2 + 1 / likelihood_var
    bayes = (prior_mean / prior_sd**2 + likelihood_mean / likelihood_var) / precision
    u_t, u_0 = (torch.tensor([(z - mu) / sigma], dtype=torch.float64) for z in (z_t, z_0))
    u_mean, u_variance = Schedule.linear().posterior(u_t, u_0, t - 1, t - 2)
    np.testing.assert_allclose(mu + sigma * u_mean.item(), bayes, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sigma**2 * u_variance, 1 / precision, rtol=1e-9)


def _bank(d, seed):
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(3, d, generator=random)
    deviations = 0.1 + torch.rand(3, d, generator=random)
    return GaussianBank(
        means, deviations, torch.full((3,), 10), encoder_dims=(d,), kappa=1.0
    ).double()


@pytest.mark.parametrize("steps", [1, 3, 50, T])
def test_whitened_sampling_is_sampling_in_z(steps):
    """The chain run in u and the chain of equation (3) run in z, with the same noise, coincide."""
    d, n = 5, 4
    bank = _bank(d, seed=1)
    c = torch.tensor([0, 2, 1, 1])
    start = bank.gaussians(c)
    weight = torch.randn(d, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def predicts(z, t):  # any ẑ_0(z_t, t)
        return torch.tanh(z @ weight) + t / T

    noise = torch.randn(
        n, steps, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    u = sample_ddpm(lambda u, t: start.whiten(predicts(start.unwhiten(u), t)), noise, steps)

    mu, sigma = bank.means[c].numpy(), bank.std[c].numpy()
    z = mu + sigma * noise[:, 0].numpy()
    times = [t + 1 for t in respaced(T, steps)] + [0]
    for i, (t, s) in enumerate(itertools.pairwise(times), start=1):
        z_0 = predicts(torch.from_numpy(z), t - 1).numpy()
        # equation (3) between t and s: α becomes ᾱ_t/ᾱ_s, β becomes 1 − α
        alpha = ALPHA_BAR[t] / ALPHA_BAR[s]
        beta, rest = 1 - alpha, 1 - ALPHA_BAR[t]
        a = beta * np.sqrt(ALPHA_BAR[s]) / rest
        b = np.sqrt(alpha) * (1 - ALPHA_BAR[s]) / rest
        e = beta * (1 - np.sqrt(ALPHA_BAR[s])) / rest
        z = a * z_0 + b * (z - (1 - np.sqrt(alpha)) * mu) + e * mu
        if s > 0:
            deviation = np.sqrt(beta * (1 - ALPHA_BAR[s]) / rest) * sigma
            z = z + deviation * noise[:, i].numpy()
    np.testing.assert_allclose(start.unwhiten(u).numpy(), z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_samples_the_gaussian_it_is_given(sampler):
    """With the exact denoiser of N(m, s²) the samples have that mean and deviation."""
    mean, deviation, n, steps = 1.5, 0.5, 4000, 100
    alphas_cumprod = Schedule.linear().alphas_cumprod

    def posterior_mean(u, t):
        a = alphas_cumprod[t].item()
        gain = np.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        return mean + gain * (u - np.sqrt(a) * mean)

    noise = torch.randn(n, steps, 1, generator=torch.Generator().manual_seed(0))
    samples = SAMPLERS[sampler](posterior_mean, noise, steps)
    assert samples.mean().item() == pytest.approx(mean, abs=0.03)
    assert samples.std().item() == pytest.approx(deviation, abs=0.04)


def test_ancestral_chain_is_diffusers_ddpm():
    """Our chain, and diffusers' DDPM scheduler given the same noise, step by step."""
    from diffusers import DDPMScheduler

    steps, n, d = 64, 3, 6
    noise = torch.randn(n, steps, d, generator=torch.Generator().manual_seed(5))
    scheduler = DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type="sample",
        clip_sample=False, timestep_spacing="trailing", variance_type="fixed_small",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == respaced(T, steps)
    u = noise[:, 0]
    ours = sample_ddpm(lambda u, t: torch.sin(u) + t / T, noise, steps)
    for i, t in enumerate(scheduler.timesteps, start=1):
        u_0 = torch.sin(u) + int(t) / T
        out = scheduler.step(u_0, t, torch.zeros_like(u) + u)
        s = int(scheduler.previous_timestep(t))
        variance = scheduler._get_variance(t)
        mean = _mean_of(scheduler, u_0, u, int(t), s)
        assert out.pred_original_sample.shape == u.shape
        u = mean + (variance.sqrt() * noise[:, i] if s >= 0 else 0)
    torch.testing.assert_close(ours, u, rtol=1e-4, atol=1e-4)


def _mean_of(scheduler, u_0, u, t, s):
    """Formula (7) of DDPM, from the scheduler's own ᾱ."""
    a_t = scheduler.alphas_cumprod[t]
    a_s = scheduler.alphas_cumprod[s] if s >= 0 else torch.tensor(1.0)
    beta = 1 - a_t / a_s
    return a_s.sqrt() * beta / (1 - a_t) * u_0 + (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t) * u


def test_p2_weights_are_the_inverse_of_one_plus_snr():
    schedule = Schedule.linear()
    t = torch.arange(T)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    for gamma in (0.0, 0.5, 1.0):
        expected = (1 + snr).pow(-gamma).float()
        torch.testing.assert_close(schedule.p2_weights(t, gamma), expected)


@given(z_0=value, predicted=value, z_t=value, mu=shift, sigma=scale, t=st.integers(2, T))
def test_kl_weights_give_the_divergence_of_equation_3(z_0, predicted, z_t, mu, sigma, t):
    """KL between (3) given z_0 and (3) given ẑ_0: two Gaussians of one deviation."""
    mean, deviation = equation_3(z_t, z_0, mu, sigma, t)
    other, _ = equation_3(z_t, predicted, mu, sigma, t)
    divergence = (mean - other) ** 2 / (2 * deviation**2)
    weight = Schedule.linear().kl_weights(torch.tensor(t - 1))
    u_0, u_predicted = (torch.tensor([(z - mu) / sigma]) for z in (z_0, predicted))
    ours = weighted_error(u_0.double(), u_predicted.double(), weight.double())
    np.testing.assert_allclose(ours.item(), divergence, rtol=1e-3, atol=1e-6)


def test_the_first_kl_weight_is_a_likelihood():
    """At the paper's t = 1 the chain ends in N(û_0, β_1): its NLL less the constant."""
    assert Schedule.linear().kl_weights(torch.tensor(0)).item() == pytest.approx(1 / (2 * 1e-4))


def test_weighted_error_by_hand():
    z_0 = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    predicted = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    weights = torch.tensor([[0.5], [2.0]])
    assert weighted_error(z_0, predicted, weights).item() == pytest.approx((0.5 * 2 + 2 * 1) / 2)


def test_noise_depends_on_the_sample_number_only():
    together = noise_for(seed=7, sample_ids=range(5), shape=(2, 3))
    alone = noise_for(seed=7, sample_ids=[3], shape=(2, 3))
    torch.testing.assert_close(together[3:4], alone, rtol=0, atol=0)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("steps", [0, -1, T + 1])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(CorgiError, match="between 1 and 1000"):
        respaced(T, steps)


def test_unknown_sampler_is_refused():
    with pytest.raises(CorgiError, match="ddpm"):
        sampler_named("euler")
