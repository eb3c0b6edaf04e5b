"""The pictures whose images have a near neighbour in training, and those whose images have none.

What is a mean over pictures has a mean over a stratum's. Distances of sets and the Vendi score are
computed anew from the stratum's pictures alone: they depend on how many there are, so a stratum's
stands beside that of the same stratum of another row, and never beside another stratum's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from corgi_core.evaluation.material import RunJob
from corgi_core.evaluation.picture_sets import Compared, SetFeatures
from corgi_core.evaluation.picture_statistics import PictureStatistics
from corgi_core.evaluation.report import STRATA
from corgi_core.evaluation.set_scores import FEWEST_FOR_FID, set_scores
from corgi_core.metrics.frechet import PARTS

FEWEST_IN_A_SET = PARTS  # pictures: with fewer a Fréchet distance has no bias, a score no interval


@dataclass(frozen=True)
class PictureStratum:
    """Some of the captions, and the statistics of their pictures.

    Attributes:
        rows: Which captions [n], ascending.
        extractors: The extractors of the features.
        statistics: Those of the stratum's pictures; None where they are too few.
    """

    rows: NDArray[np.int64]
    extractors: Sequence[str]
    statistics: PictureStatistics | None

    def set_scores(self, pair: Compared) -> dict[str, float]:
        """`set_scores` of the stratum's part of two sets; of too few pictures none, or no FID."""
        count = len(pair.ours.rows(len(self.rows)))
        if self.statistics is None or count < FEWEST_IN_A_SET:
            return {}
        return set_scores(self.statistics, pair, self.extractors, count >= FEWEST_FOR_FID)


def picture_strata(
    near: NDArray[np.bool_],
    run: RunJob,
    folder: Path | UPath,
    features: SetFeatures,
    extractors: Sequence[str],
    pairs: Sequence[Compared],
    whole: PictureStatistics,
) -> dict[str, PictureStratum]:
    """Compute what is missing of the statistics of both strata.

    Args:
        near: Which captions' images [n] have a near neighbour among the training images.
        run: Computes the arrays of a job.
        folder: Where they are stored, in a folder for each stratum.
        features: All pictures'.
        extractors: The names of their arrays.
        pairs: The sets that are compared, of all pictures.
        whole: The statistics of all pictures, which are those of a stratum that has all.

    Returns:
        By name, in the order of `STRATA`.
    """
    found = dict[str, PictureStratum]()
    for name, chosen in zip(STRATA, (near, ~near), strict=True):
        rows, statistics = np.flatnonzero(chosen), whole if chosen.all() else None
        enough = [e for e in pairs if len(e.ours.rows(len(rows))) >= FEWEST_IN_A_SET]
        if enough and statistics is None:
            part = replace(features, among=rows)
            statistics = PictureStatistics.computed(run, folder / name, part, extractors, enough)
        found[name] = PictureStratum(rows, extractors, statistics)
    return found
