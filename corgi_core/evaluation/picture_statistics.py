"""Statistics of pictures' features, computed on the workers that there are, and read by scores.

What a set's sums give (the Fréchet distance, its bias, the Vendi score) streams over chunks of
pictures, and the chunks' sums merge in their order. Sums are stored where they are no larger than
the features; those of fewer pictures are made anew from the features. The kernel distances need
pairs of pictures: they read the features of the two sets that are compared, and pairs are made part
by part. One thread computes each operator, so all of it has the same bits on any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.revisions import PICTURE_STATISTICS_REVISION
from corgi_core.devices import one_thread_each
from corgi_core.evaluation.held_out import Chunks
from corgi_core.evaluation.material import RunJob
from corgi_core.evaluation.picture_features import CLIP, DINOV2, INCEPTION, Pictures
from corgi_core.evaluation.picture_sets import Compared, PictureSet, SetFeatures, Whole, sets_of
from corgi_core.metrics.cmmd import scaled_gaussian
from corgi_core.metrics.features import in_their_span
from corgi_core.metrics.frechet import PARTS, SumsByPart, bias_of_two, frechet_by_part
from corgi_core.metrics.kid import cubic
from corgi_core.metrics.mmd import Kernel, influences, mmd_by_pair, paired_parts
from corgi_core.metrics.vendi import vendi_of_sums

SUMMED_AT_ONCE = 2**14  # pictures, so that the sums of a chunk are no larger than its features
FEWEST_SUMMED = PARTS  # pictures a feature: stored sums of fewer would be larger than the features
WIDE = 1024  # features, of whose covariances a distance takes as long as embedding pictures
COMPARED_AS_ONE = 2**14  # pictures with which one is compared as quickly as one is embedded
KERNELS: dict[str, tuple[str, Kernel]] = {
    CLIP: ("cmmd", scaled_gaussian), INCEPTION: ("kid", cubic), DINOV2: ("kid_dinov2", cubic),
}  # fmt: skip
"""The kernel distance of each extractor's features, and its name in scores."""
SUMS, BIASES, DISTANCES, KERNEL_PARTS = "sums", "biases", "distances", "kernel_parts"  # folders
VENDI = "vendi"  # an array


@dataclass(frozen=True)
class OfFeatures(ArrayJob):
    """What is computed from the stored features of an evaluation's pictures.

    Attributes:
        features: Of all pictures, or of those of a stratum.
        extractors: The names of their arrays.
    """

    features: SetFeatures
    extractors: tuple[str, ...]
    revision = PICTURE_STATISTICS_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """What the features are of, and by which models; not their digest: cases come and go."""
        return {"features": self.features.store.spec}

    @property
    def weight(self) -> int:
        """Of so few pictures that workers start more slowly: nothing."""
        return self.total // COMPARED_AS_ONE

    @property
    def total(self) -> int:
        """How many captions there are."""
        return len(self.features.captions)

    @property
    def summed(self) -> tuple[str, ...]:
        """The extractors whose sums are stored: those with many pictures for their width."""
        width = self.features.width
        return tuple(e for e in self.extractors if self.total >= FEWEST_SUMMED * width(e))


@dataclass(frozen=True)
class PictureSums(OfFeatures):
    """`SumsByPart` of a chunk of pictures, one row a part, each array named by its extractor.

    Of the extractors in `summed`, of which there is one at least.

    Attributes:
        images: The pictures in chunks of up to `SUMMED_AT_ONCE`.
    """

    images: Chunks[Pictures]
    what = "summing pictures' features"

    @property
    def about(self) -> dict[str, Any]:
        """Also how many pictures there are, by which each one's part is dealt."""
        return {**super().about, "pictures": self.total}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a chunk's name to its sums."""
        of_sets, total = self.features, self.total

        def summed(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            found: Arrays = {}
            with one_thread_each():
                for extractor in self.summed:

                    def read(at: NDArray[np.int64], of: str = extractor) -> NDArray[Any]:
                        return of_sets.read(case, of, rows[at])

                    sums = SumsByPart.of_rows(rows, total, read)
                    found |= {f"{extractor}/{name}": a for name, a in sums.arrays.items()}
            return {"keys": np.arange(PARTS).astype(str), **found}

        return summed


@dataclass(frozen=True)
class OfSums(OfFeatures):
    """What is computed from the sums over sets of pictures.

    Attributes:
        chunks: The chunks of the stored sums.
        sums: The arrays of `PictureSums`; None where no extractor's are stored.
    """

    chunks: Chunks[Pictures]
    sums: ArrayStore | None

    @property
    def weight(self) -> int:
        """Distances of wide extractors are worth a worker, whatever the number of pictures."""
        width, count = self.features.width, 2 * self.total
        return int(any(min(count, width(each)) >= WIDE for each in self.extractors))

    def sums_of(self, sets: Sequence[PictureSet], extractor: str) -> list[SumsByPart]:
        """The sums over sets' features, of one basis: stored, or of few pictures made anew.

        Of an odd number of pictures the second half has one more than `PictureSet.rows`, by which
        the kernel distances and `count` are.
        """
        cases = list(dict.fromkeys(each.pictures for each in sets))
        if extractor in self.summed:
            every = [self._stored(case, extractor) for case in cases]
        else:
            rows = np.arange(self.total)
            read = [self.features.read(case, extractor, rows) for case in cases]
            every = [SumsByPart.of(features) for features in in_their_span(read)]
        found = dict(zip(cases, every, strict=True))
        wholes = [(found[each.pictures], each.half) for each in sets]
        return [sums if half is None else sums.halves[half] for sums, half in wholes]

    def _stored(self, case: Pictures, extractor: str) -> SumsByPart:
        """The stored sums, merged in the chunks' order."""
        assert self.sums is not None, f"the sums of {extractor} are not stored"
        store, names = self.sums, ("count", "mean", "scatter")
        return reduce(
            add,
            (
                SumsByPart.of_arrays({n: store.mapped(shard, f"{extractor}/{n}") for n in names})
                for shard in self.chunks.shards_of(case)
            ),
        )


@dataclass(frozen=True)
class Biases(OfSums):
    """The bias [1] of a set's Fréchet distances, by extractor; NaN for fewer than eight pictures.

    Attributes:
        images: The sets.
    """

    images: Whole[PictureSet]
    what = "measuring the bias of distances"

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a set's name to its biases."""

        def measured(shard: str) -> Arrays:
            found: Arrays = {"keys": np.array(["bias"])}
            with one_thread_each():
                for extractor in self.extractors:
                    (sums,) = self.sums_of([self.images.case(shard)], extractor)
                    found[extractor] = np.array([np.nan if sums.bias is None else sums.bias])
            return found

        return measured


@dataclass(frozen=True)
class Distances(OfSums):
    """The Fréchet distances of two sets, by extractor, and the Vendi score of the first by CLIP.

    Each array has the value of whole sets, then those without each part [1 + p].

    Attributes:
        images: The pairs of sets.
    """

    images: Whole[Compared]
    what = "comparing pictures' features"

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from the name of two sets to their distances."""

        def compared(shard: str) -> Arrays:
            pair, found = self.images.case(shard), dict[str, NDArray[Any]]()
            with one_thread_each():
                for extractor in self.extractors:
                    ours, theirs = self.sums_of([pair.ours, pair.theirs], extractor)
                    found[extractor] = frechet_by_part(ours, theirs)
                    if extractor == CLIP:
                        found[VENDI] = vendi_of_sums(ours)
            left_out = (f"without part {part}" for part in range(len(found[VENDI]) - 1))
            return {"keys": np.array(["whole", *left_out]), **found}

        return compared


@dataclass(frozen=True)
class KernelParts(OfFeatures):
    """The kernel distances of two sets' pairs to all others of their part [n], by their names.

    Attributes:
        images: The pairs of sets.
    """

    images: Whole[Compared]
    what = "comparing pictures' features by kernels"

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from the name of two sets to what their distances are the means of."""
        of_sets, total = self.features, self.total

        def compared(shard: str) -> Arrays:
            pair = self.images.case(shard)
            ours, theirs = pair.ours.rows(total), pair.theirs.rows(total)
            parts, found = paired_parts(len(theirs), len(ours)), dict[str, NDArray[Any]]()
            with one_thread_each():
                for extractor in self.extractors:
                    name, kernel = KERNELS[extractor]
                    found[name] = np.empty(len(ours))
                    for at, _ in parts:  # the same of both sets, which have one size
                        found[name][at] = mmd_by_pair(
                            of_sets.read(pair.theirs.pictures, extractor, theirs[at]),
                            of_sets.read(pair.ours.pictures, extractor, ours[at]),
                            kernel,
                        )
            return {"keys": of_sets.keys(ours), **found}

        return compared


@dataclass(frozen=True)
class PictureStatistics:
    """The stored statistics of an evaluation's pictures, or of those of a stratum.

    Attributes:
        biases: The arrays of `Biases`.
        distances: The arrays of `Distances`.
        kernel_parts: The arrays of `KernelParts`.
    """

    biases: ArrayStore
    distances: ArrayStore
    kernel_parts: ArrayStore

    @classmethod
    def computed(
        cls,
        run: RunJob,
        folder: Path | UPath,
        features: SetFeatures,
        extractors: Sequence[str],
        pairs: Sequence[Compared],
    ) -> PictureStatistics:
        """Compute what is missing of the statistics of all pictures that are compared.

        Args:
            run: Computes the arrays of a job.
            folder: Where they are stored, in folders of their own; a stratum has its own folder.
            features: The pictures', of two captions or more.
            extractors: The names of their arrays.
            pairs: The sets that are compared.

        Raises:
            CorgiError: there are too few pictures, or a feature is not finite.
        """
        captions, given = features.captions, (features, tuple(extractors))
        sets = sets_of(pairs)
        cases = tuple(dict.fromkeys(each.pictures for each in sets))
        each, both = Whole(captions, sets), Whole(captions, pairs)
        to_sum = PictureSums(Chunks[Pictures](captions, cases, SUMMED_AT_ONCE), *given)
        sums = run(to_sum, folder / SUMS) if to_sum.summed else None
        return cls(
            run(Biases(each, *given, to_sum.images, sums), folder / BIASES),
            run(Distances(both, *given, to_sum.images, sums), folder / DISTANCES),
            run(KernelParts(both, *given), folder / KERNEL_PARTS),
        )

    def frechet(self, pair: Compared, extractor: str) -> NDArray[np.float64]:
        """The Fréchet distance of two sets, then those without each part [1 + p]."""
        return np.array(self.distances.mapped(pair.digest, extractor))

    def bias(self, pair: Compared, extractor: str) -> float | None:
        """The bias of the Fréchet distance of two sets; None for fewer than eight pictures."""
        ours, theirs = (
            float(self.biases.mapped(each.digest, extractor)[0])
            for each in (pair.ours, pair.theirs)
        )
        return None if np.isnan([ours, theirs]).any() else bias_of_two(ours, theirs)

    def vendi(self, pair: Compared) -> NDArray[np.float64]:
        """The Vendi score of the first set, then those without each part [1 + p]."""
        return np.array(self.distances.mapped(pair.digest, VENDI))

    def kernel_distance(self, pair: Compared, extractor: str) -> NDArray[np.float64]:
        """Values [n] whose mean is CMMD or KID of two sets, and whose bootstrap is its own."""
        name, _ = KERNELS[extractor]
        by_pair = np.array(self.kernel_parts.mapped(pair.digest, name))
        return influences(by_pair, (at for at, _ in paired_parts(len(by_pair), len(by_pair))))
