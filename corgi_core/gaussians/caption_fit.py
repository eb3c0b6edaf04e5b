"""Fitting a Gaussian to every caption: a cross-fitted ridge regression, and what it leaves.

One pass over the captions sums all that is needed, fold by fold; memory is that of the sums,
whatever the number of captions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.errors import CorgiError
from corgi_core.gaussians.caption_conditioned import CaptionGaussians
from corgi_core.mapping import Map, map_here
from corgi_core.prior.ridge import CaptionSums, caption_sums, fitted, fitted_at

FOLDS = 5
MIN_STD = 1e-4


def fit_caption_gaussians(
    captioned: KeySet,
    validation: KeySet,
    images: ArrayStore,
    texts: ArrayStore,
    mean: Tensor,
    kappa: float,
    mapped: Map = map_here,
) -> tuple[CaptionGaussians, dict[str, Any]]:
    """The Gaussian of a caption: μ(y) by ridge regression, and the variance that it leaves.

    Args:
        captioned: The training images whose captions may be used.
        validation: Those whose captions choose the penalty.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.
        mean: The mean of all training images' embeddings, with captions or without [d].
        kappa: The factor κ of the standard deviation.
        mapped: Where the sums are computed; the result is the same.

    Returns:
        The Gaussians, with the regressions that leave a fold out, and how the fit went: "captions",
        "penalty" (λ/n), "folds", and "explained", the share of the variance of training embeddings
        that the regressions explain of captions that they were not fitted to.

    Raises:
        CorgiError: there is no training or no validation caption, or all images are one.
    """
    dims = tuple(images.spec["encoder_dims"])
    sums = caption_sums(captioned, validation, images, texts, mapped, FOLDS)
    train = sums.train
    for count, what in ((train.count, "training"), (sums.validation.count, "validation")):
        if not count:
            raise CorgiError(
                f"there is no {what} caption to fit a caption's Gaussian to",
                "choose a larger caption subset, ingest captions, or take another variant",
            )
    whole = fitted(train, sums.validation, dims)
    filled = [fold for fold in sums.folds if 0 < fold.count < train.count]
    if len(filled) < 2:
        raise CorgiError(
            "all training captions are of one image, so nothing is left out to fit a Gaussian",
            "choose a larger caption subset, or take another variant",
        )
    left_out = [
        fitted_at(train.without(fold) if fold.count else train, whole.card["penalty"], dims)
        for fold in sums.folds
    ]
    error = sum(fold.squared_error(prior) for fold, prior in zip(sums.folds, left_out, strict=True))
    variance = torch.from_numpy(error / train.count)
    std = kappa * variance.clamp(min=0).sqrt().clamp(min=MIN_STD)
    folds = torch.stack([p.weight for p in left_out]), torch.stack([p.bias for p in left_out])
    gaussians = CaptionGaussians(whole.weight, whole.bias, mean, std, dims, kappa, folds)
    fit = {
        "captions": train.count, "penalty": whole.card["penalty"], "folds": FOLDS,
        "explained": _explained(sums, float(variance.sum())),
    }  # fmt: skip
    return gaussians, fit


def _explained(sums: CaptionSums, left: float) -> float:
    train = sums.train
    mean = train.embeddings / train.count
    total = float((train.squares / train.count - mean**2).sum())
    return 1 - left / total if total > 0 else 0.0
