"""The spread of a caption's samples: whether a sampler is as diverse as it should be."""

from __future__ import annotations

from torch import Tensor

from corgi_core.errors import CorgiError


def spread(samples: Tensor, real: Tensor) -> dict[str, float]:
    """How far a caption's samples lie apart: their variance, and its ratio to the right one.

    For a calibrated sampler z_0 is exchangeable with its samples, so E‖z_0 − z̄‖² is (1 + 1/S) times
    their variance. Variances are summed over coordinates and divided by d.

    Args:
        samples: S samples of each of n captions [S, n, d], S ≥ 2.
        real: The captions' true embeddings [n, d].

    Returns:
        "variance", and "spread", its ratio: 1 for a calibrated sampler, 0 for one with one answer
        to every caption.

    Raises:
        CorgiError: there is one sample of each caption, or none.
    """
    count, _, width = samples.shape
    if count < 2:
        raise CorgiError("one sample has no spread", "set spread_samples to 2 or more")
    variance = samples.var(dim=0).sum(dim=1).mean() / width
    missed = (real - samples.mean(dim=0)).square().sum(dim=1).mean() / width
    return {
        "variance": float(variance),
        "spread": float(variance / (missed * count / (count + 1))),
    }
