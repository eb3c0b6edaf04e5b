"""What a stage's UNet predicts of x_t = α x_0 + σ ε, and the picture x̂_0 that this says.

"noise" is ε (Ho et al. 2020). "v" is α ε − σ x_0 (Salimans and Ho 2022, section 4): it says x_0
exactly at every t, while ε says nothing of it where α is next to 0.
"""

from __future__ import annotations

from torch import Tensor

PREDICTIONS = ("v", "noise")


def prediction_target(kind: str, x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What is to be predicted, [n, 3, s, s] as x_0 and noise; alpha_bar [n] at each picture's t."""
    if kind == "noise":
        return noise
    alpha, sigma = _alpha_and_sigma(alpha_bar)
    return alpha * noise - sigma * x_0


def predicted_start(kind: str, x_t: Tensor, predicted: Tensor, alpha_bar: Tensor) -> Tensor:
    """x̂_0 [n, 3, s, s] of a prediction at x_t."""
    alpha, sigma = _alpha_and_sigma(alpha_bar)
    if kind == "noise":
        return (x_t - sigma * predicted) / alpha
    return alpha * x_t - sigma * predicted


def _alpha_and_sigma(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """[n] → α, σ [n, 1, 1, 1]; α² + σ² = 1."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
