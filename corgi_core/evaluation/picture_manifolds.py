"""Which pictures are among the real ones, computed on the workers that there are.

Precision, recall, density and coverage need the distances of all pairs of pictures. Each pair of
sets reads the features of both, and distances are made block by block. One thread computes each
operator, so all of it has the same bits on any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.devices import one_thread_each
from corgi_core.evaluation.material import RunJob
from corgi_core.evaluation.picture_sets import Compared, PictureSet, SetFeatures, Whole, sets_of
from corgi_core.evaluation.picture_statistics import OfFeatures
from corgi_core.metrics.precision_recall import DENSE_NEIGHBOURS, NEIGHBOURS, Manifold, inside

BALLS, INSIDE = "balls", "inside"  # folders
NEAREST = "nearest"  # an array


@dataclass(frozen=True)
class Balls(OfFeatures):
    """The array "nearest" [n, k] of each set: squared distances to each picture's nearest others.

    By the last extractor. Of a set's features, all are in memory, and one block of distances.

    Attributes:
        images: The sets.
    """

    images: Whole[PictureSet]
    what = "measuring distances between pictures"

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a set's name to its distances."""
        of_sets, total = self.features, self.total

        def measured(shard: str) -> Arrays:
            each = self.images.case(shard)
            rows = each.rows(total)
            features = of_sets.read(each.pictures, self.extractors[-1], rows)
            neighbours = max(NEIGHBOURS, min(DENSE_NEIGHBOURS, len(rows) - 1))
            with one_thread_each():
                nearest = Manifold.of(features, neighbours).nearest
            return {"keys": of_sets.keys(rows), NEAREST: nearest}

        return measured


@dataclass(frozen=True)
class PicturesInside(OfFeatures):
    """`Inside.by_feature` of two sets: row i is of the i-th picture of ours, or of theirs.

    Attributes:
        images: The pairs of sets.
        balls: The arrays of `Balls`.
    """

    images: Whole[Compared]
    balls: ArrayStore
    what = "comparing pictures with real ones"

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a pair's name to what is inside."""
        of_sets, total = self.features, self.total

        def manifold(each: PictureSet) -> Manifold:
            features = of_sets.read(each.pictures, self.extractors[-1], each.rows(total))
            return Manifold(features, self.balls.mapped(each.digest, NEAREST))

        def compared(shard: str) -> Arrays:
            pair = self.images.case(shard)
            with one_thread_each():
                found = inside(manifold(pair.theirs), manifold(pair.ours))
            return {"keys": of_sets.keys(pair.ours.rows(total)), **found.by_feature}

        return compared


@dataclass(frozen=True)
class PictureManifolds:
    """Which pictures of an evaluation are inside the balls of the sets that they are compared with.

    Attributes:
        insides: The arrays of `PicturesInside`.
    """

    insides: ArrayStore

    @classmethod
    def computed(
        cls,
        run: RunJob,
        folder: Path | UPath,
        features: SetFeatures,
        extractors: Sequence[str],
        pairs: Sequence[Compared],
    ) -> PictureManifolds:
        """Compute what is missing, by the last extractor; as `PictureStatistics.computed`."""
        captions, given = features.captions, (features, tuple(extractors))
        balls = run(Balls(Whole(captions, sets_of(pairs)), *given), folder / BALLS)
        return cls(run(PicturesInside(Whole(captions, pairs), *given, balls), folder / INSIDE))

    def inside(self, pair: Compared) -> dict[str, NDArray[Any]]:
        """What precision, recall, density and coverage of two sets are the means of [n].

        Density and coverage are left out where there are too few pictures for their balls.
        """
        names = ["precision", "recall"]
        if self.insides.rows_in(pair.digest) > DENSE_NEIGHBOURS:
            names += ["density", "coverage"]
        return {name: self.insides.mapped(pair.digest, name) for name in names}
