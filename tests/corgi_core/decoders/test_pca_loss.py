"""The loss of the PCA decoder against closed forms."""

from __future__ import annotations

import torch

from corgi_core.decoders.pca.task import denoising_loss, truncated_snr_weights


def test_weights_are_the_snr_between_one_and_five() -> None:
    alpha_bar = torch.tensor([0.001, 0.5, 0.75, 0.9999])
    torch.testing.assert_close(truncated_snr_weights(alpha_bar), torch.tensor([1.0, 1.0, 3.0, 5.0]))


def test_where_noise_rules_the_loss_is_the_v_prediction_loss() -> None:
    """‖v − v̂‖² = (SNR + 1) ‖x_0 − x̂_0‖², so at SNR → 0 both are the same."""
    alpha_bar = torch.tensor([1e-5])
    x_0, wrong, noise = (torch.randn(1, 192) for _ in range(3))
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t = alpha * x_0 + sigma * noise
    v = alpha * noise - sigma * x_0
    v_predicted = (alpha * x_t - wrong) / sigma
    torch.testing.assert_close(
        denoising_loss(x_0, wrong, alpha_bar, 192),
        (v - v_predicted).square().mean(), rtol=1e-3, atol=1e-5,
    )  # fmt: skip
