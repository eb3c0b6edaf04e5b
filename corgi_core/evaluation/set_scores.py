"""Distances between sets of pictures, and their diversity: each with its interval and its bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corgi_core.errors import CorgiError
from corgi_core.evaluation.picture_features import CLIP, DINOV2, INCEPTION
from corgi_core.evaluation.picture_sets import Compared
from corgi_core.evaluation.picture_statistics import KERNELS, PictureStatistics
from corgi_core.metrics.bootstrap import with_intervals
from corgi_core.metrics.jackknife import with_jackknife
from corgi_core.metrics.vendi import vendi_bias

FEWEST_FOR_FID = 50  # pictures: with fewer even the bias of an FID cannot be estimated
FRECHET = {CLIP: "frechet_clip", INCEPTION: "fid", DINOV2: "frechet_dinov2"}
"""The names of the Fréchet distance, by the features' extractor."""


def set_scores(
    statistics: PictureStatistics, pair: Compared, extractors: Sequence[str], with_fid: bool = True
) -> dict[str, float]:
    """Fréchet and kernel distances of two sets by every extractor, and CLIP's Vendi score.

    Args:
        statistics: Those of the sets.
        pair: The sets.
        extractors: Of the features.
        with_fid: Whether there are enough pictures for a Fréchet distance by Inception.
    """
    found: dict[str, float] = {}
    for extractor in extractors:
        if extractor != INCEPTION or with_fid:
            distances = statistics.frechet(pair, extractor)
            found |= frechet_scores(extractor, distances, statistics.bias(pair, extractor))
        name, _ = KERNELS[extractor]
        found |= with_intervals({name: statistics.kernel_distance(pair, extractor)})
        if extractor == CLIP:
            found |= vendi_scores(statistics.vendi(pair))
    return found


def frechet_scores(
    extractor: str, distances: NDArray[np.float64], bias: float | None
) -> dict[str, float]:
    """The Fréchet distance by the extractor's name of it, with its interval and its bias.

    Args:
        extractor: CLIP, INCEPTION or DINOV2.
        distances: `frechet_by_part` of the two sets.
        bias: Theirs; None for fewer than eight pictures.
    """
    name = FRECHET[extractor]
    found = with_jackknife(name, float(distances[0]), distances[1:].tolist())
    return found | ({} if bias is None else {f"{name}_bias": bias})


def vendi_scores(scores: NDArray[np.float64]) -> dict[str, float]:
    """The Vendi score with its interval and its bias, from what `vendi_by_part` gives."""
    found = with_jackknife("vendi", float(scores[0]), scores[1:].tolist())
    return found | ({} if (bias := vendi_bias(scores)) is None else {"vendi_bias": bias})


def check_enough_for_fid(count: int) -> None:
    """Raise CorgiError where there are too few pictures to call a distance FID."""
    if count < FEWEST_FOR_FID:
        raise CorgiError(
            f"{count} pictures are too few for FID, which needs {FEWEST_FOR_FID}, and thousands to "
            "mean much",
            "compare more pictures (in an evaluation: evaluation.images), or leave Inception out",
        )
