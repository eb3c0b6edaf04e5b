"""Fitting a Gaussian to every caption: a cross-fitted linear function, and what it leaves.

One pass over the captions sums all that the ridge regressions and the covariance need, fold by
fold. A contrastive term then moves the means toward what tells an image from others. Memory is
that of the sums, one of 8 (p + d)² bytes for each fold and a part's as much again, and of at most
32,768 captions, whatever their number. Folds are of images: near twins in other folds make what is
left a little too small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from corgi_core.config import GaussianSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.devices import one_thread_each
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.caption_conditioned import CaptionGaussians, folds_of
from corgi_core.mapping import Map, map_here
from corgi_core.prior.contrastive_linear import spaced_pairs, trained
from corgi_core.prior.linear import LinearPrior, stored_tokens
from corgi_core.prior.ridge import CaptionSums, Matrix, caption_sums, fitted, fitted_at

FOLDS = 5
SMALLEST_STD = 0.1  # of the root mean square of all: directions that are almost fixed are not noise


def fit_caption_gaussians(
    captioned: KeySet,
    validation: KeySet,
    images: ArrayStore,
    texts: ArrayStore,
    bank: GaussianBank,
    settings: GaussianSettings,
    mapped: Map = map_here,
) -> tuple[CaptionGaussians, dict[str, Any]]:
    """The Gaussian of a caption: μ(y), and the covariance of what it leaves.

    Args:
        captioned: The training images whose captions may be used.
        validation: Those whose captions choose the penalty.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.
        bank: The one Gaussian of all training images, with captions or without: its mean is where
            dropped captions start, and with few captions its variances count too.
        settings: κ, and the weight of the contrastive term.
        mapped: Where the sums are computed; the result is the same.

    Returns:
        The Gaussians, with the functions that leave a fold out, and how the fit went: "captions",
        "penalty" (λ/n), "folds", and "explained", the share of the variance of training embeddings
        that is explained of captions that were left out.

    Raises:
        CorgiError: there is no training or no validation caption, or all images are one.
    """
    sums = caption_sums(captioned, validation, images, texts, mapped, FOLDS)
    _check(sums)
    pairs = None
    if settings.contrast:
        pairs = spaced_pairs(captioned, images, texts, stored_tokens(texts) is not None)
    with one_thread_each():  # the same bits on any number of cores: a training goes on with them
        return _fitted(sums, pairs, tuple(images.spec["encoder_dims"]), bank, settings)


def _fitted(
    sums: CaptionSums,
    pairs: tuple[Tensor, Tensor] | None,
    dims: tuple[int, ...],
    bank: GaussianBank,
    settings: GaussianSettings,
) -> tuple[CaptionGaussians, dict[str, Any]]:
    train = sums.train
    whole = fitted(train, sums.validation, dims)
    penalty = whole.card["penalty"]
    left_out = [
        fitted_at(train.without(fold) if fold.count else train, penalty, dims)
        for fold in sums.folds
    ]
    if pairs is not None:
        whole, left_out = _contrasted(whole, left_out, *pairs, settings.contrast)
    errors = sum(
        (fold.errors(prior) for fold, prior in zip(sums.folds, left_out, strict=True)),
        np.zeros_like(train.products),
    )
    std, basis = _axes(errors / train.count, sums.images, bank)
    folds = torch.stack([p.weight for p in left_out]), torch.stack([p.bias for p in left_out])
    gaussians = CaptionGaussians(
        whole.weight, whole.bias, bank.means[0], settings.kappa * std, basis, dims, settings.kappa,
        folds,
    )  # fmt: skip
    fit = {
        "captions": train.count, "penalty": penalty, "folds": FOLDS,
        "explained": _explained(sums, float(np.trace(errors))),
    }  # fmt: skip
    return gaussians, fit


def _check(sums: CaptionSums) -> None:
    for count, what in ((sums.train.count, "training"), (sums.validation.count, "validation")):
        if not count:
            raise CorgiError(
                f"there is no {what} caption to fit a caption's Gaussian to",
                "choose a larger caption subset, ingest captions, or take another variant",
            )
    if any(fold.count == sums.train.count for fold in sums.folds):
        raise CorgiError(
            "all training captions are of one image, so nothing is left out to fit a Gaussian",
            "choose a larger caption subset, or take another variant",
        )


def _contrasted(
    whole: LinearPrior,
    left_out: list[LinearPrior],
    features: Tensor,
    images: Tensor,
    contrast: float,
) -> tuple[LinearPrior, list[LinearPrior]]:
    """The same functions after training with the contrastive term, each without its fold."""
    fold = folds_of(images, len(left_out))
    parts = [fold != number for number in range(len(left_out))]
    return trained(whole, features, images, contrast), [
        trained(prior, features[rows], images[rows], contrast)
        for prior, rows in zip(left_out, parts, strict=True)
    ]


def _axes(covariance: Matrix, images: int, bank: GaussianBank) -> tuple[Tensor, Tensor]:
    """The deviations [d] along the principal axes [d, d] of what is left of the captions.

    Of few images, n, the covariance is mostly chance. So it is averaged, by n/(n + d), with the
    variances of all images, scaled to the same sum.
    """
    d = len(covariance)
    variances = (bank.std[0].double() / bank.kappa).square().cpu().numpy()
    pooled = np.diag(variances * (np.trace(covariance) / variances.sum()))
    share = images / (images + d)
    values, vectors = np.linalg.eigh(share * covariance + (1 - share) * pooled)
    smallest = SMALLEST_STD**2 * values.clip(min=0).mean()
    std = np.sqrt(values.clip(min=max(smallest, np.finfo(np.float32).tiny)))
    return torch.from_numpy(std).float(), torch.from_numpy(vectors).float()


def _explained(sums: CaptionSums, left: float) -> float:
    train = sums.train
    mean = train.embeddings / train.count
    total = float(np.trace(train.products) - train.count * mean @ mean)
    return 1 - left / total if total > 0 else 0.0
