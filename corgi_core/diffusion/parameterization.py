"""What a denoising network predicts of x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, and what x̂_0 follows.

"x0" is x_0 itself. "epsilon" is the noise ε (Ho et al., 2020). "v" is √ᾱ_t ε − √(1 − ᾱ_t) x_0
(Salimans and Ho, 2022, section 4): it determines x_0 at every t, ε does not where ᾱ_t is near 0.
"""

from __future__ import annotations

from torch import Tensor

from corgi_core.errors import CorgiError

PARAMETERIZATIONS = ("x0", "epsilon", "v")
OF_DIFFUSERS = {"sample": "x0", "epsilon": "epsilon", "v_prediction": "v"}
"""Names of the parameterizations by diffusers' `prediction_type`."""


def trailing(coefficients: Tensor, x: Tensor) -> Tensor:
    """Coefficients [n, …] with dimensions of size 1 appended, to multiply x [n, …, *any].

    Examples:
        >>> import torch
        >>> trailing(torch.ones(4), torch.ones(4, 3, 8, 8)).shape
        torch.Size([4, 1, 1, 1])
    """
    return coefficients.reshape(coefficients.shape + (1,) * (x.ndim - coefficients.ndim))


def target(parameterization: str, x_0: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What a network should predict.

    Args:
        parameterization: one of `PARAMETERIZATIONS`.
        x_0: the data [n, *any].
        noise: ε [n, *any].
        alphas_cumprod: ᾱ_t [n] at each sample's t, or a scalar.

    Returns:
        The target [n, *any].

    Raises:
        CorgiError: for an unknown parameterization.

    Examples:
        >>> import torch
        >>> target("v", torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0.25]))
        tensor([[0.5000, 0.5000]])
    """
    if parameterization == "x0":
        return x_0
    if parameterization == "epsilon":
        return noise
    alpha, sigma = _alpha_and_sigma(parameterization, x_0, alphas_cumprod)
    return alpha * noise - sigma * x_0


def to_x0(parameterization: str, x_t: Tensor, predicted: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The x̂_0 that a prediction at x_t determines, the inverse of `target`.

    Args:
        parameterization: one of `PARAMETERIZATIONS`.
        x_t: the noisy data [n, *any].
        predicted: the network's prediction [n, *any].
        alphas_cumprod: ᾱ_t [n] at each sample's t, or a scalar.

    Returns:
        x̂_0 [n, *any].

    Raises:
        CorgiError: for an unknown parameterization.

    Examples:
        >>> import torch
        >>> to_x0("epsilon", torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([0.25]))
        tensor([[2.]])
    """
    if parameterization == "x0":
        return predicted
    alpha, sigma = _alpha_and_sigma(parameterization, x_t, alphas_cumprod)
    if parameterization == "epsilon":
        return (x_t - sigma * predicted) / alpha
    return alpha * x_t - sigma * predicted


def _alpha_and_sigma(
    parameterization: str, x: Tensor, alphas_cumprod: Tensor
) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1 − ᾱ_t), to multiply x."""
    if parameterization not in PARAMETERIZATIONS:
        raise CorgiError(
            f"a network cannot predict {parameterization!r}",
            f"choose one of {', '.join(PARAMETERIZATIONS)}",
        )
    alphas_cumprod = trailing(alphas_cumprod, x)
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
