"""Scores of decoded pictures against the real ones, from the features of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import COMPARED_AT_ONCE
from corgi_core.evaluation.picture_features import (
    CHUNK,
    CLIP,
    DINOV2,
    INCEPTION,
    PICTURES,
    REAL,
    SECONDS,
    TO_TEXT,
    Decoded,
    PictureFeatures,
    Pictures,
    RealImages,
    StoredPictures,
)
from corgi_core.evaluation.picture_manifolds import PictureManifolds
from corgi_core.evaluation.picture_neighbours import PictureNeighbours
from corgi_core.evaluation.picture_sets import Compared, PictureSet, SetFeatures
from corgi_core.evaluation.picture_statistics import PictureStatistics
from corgi_core.evaluation.picture_strata import PictureStratum, picture_strata
from corgi_core.evaluation.predictors import Predictor
from corgi_core.evaluation.report import SHUFFLED
from corgi_core.evaluation.sampling import SampledEmbeddings
from corgi_core.evaluation.set_scores import check_enough_for_fid, set_scores
from corgi_core.metrics.bootstrap import with_intervals
from corgi_core.metrics.clip_score import clip_scores
from corgi_core.metrics.memorisation import memorisation_scores

FEWEST_IN_A_HALF = 4  # real images, for distances between the halves
LETTERBOX = "letterbox"  # the framing of stores that name none
OF_OURS = ("precision", "density")  # means over our pictures; recall and coverage are over theirs


@dataclass(frozen=True)
class PictureScorer:
    """Compares pictures with the real images, each counted once.

    Attributes:
        features: The arrays of `PictureFeatures`; the real images are one of their cases.
        chunks: Their captions and cases.
        encoder_dims: Widths of the CLIP encoders.
        text_embeddings: The captions' embeddings.
        real: The real images by the size of the pictures that are compared with them.
        statistics: What was computed from the features of all that is compared.
        manifolds: Which pictures are among the others. Precision, recall, density and coverage are
            of the last extractor.
        extractors: The names of the features' arrays.
        nearest: The arrays of `PictureNeighbours` and their chunks; None where the models learned
            from other images.
        strata: The captions whose images have a near neighbour among the training images, and the
            others, by name; none where nobody asked.
    """

    features: ArrayStore
    chunks: Chunks[Pictures]
    encoder_dims: Sequence[int]
    text_embeddings: ArrayStore
    real: Mapping[int, RealImages]
    statistics: PictureStatistics
    manifolds: PictureManifolds
    extractors: Sequence[str] = (CLIP,)
    nearest: tuple[ArrayStore, Chunks[Pictures]] | None = None
    strata: Mapping[str, PictureStratum] = field(default_factory=dict)

    def scores(self, case: Pictures) -> dict[str, Any]:
        """Scores of a case's pictures, with the seconds of decoding, summed over all workers.

        Returns:
            "frechet_clip", and with their features "fid" and "frechet_dinov2", each beside its
            "_bias" from eight pictures on; "kid" and "kid_dinov2"; "cmmd"; "precision"
            and "recall", and from six pictures on "density" and "coverage"; "vendi" with its
            "_bias"; "memorisation", "copies" and "nearest_distance", 1 − the cosine to the nearest
            training image; "clip_similarity_image" and "clip_similarity_text"; "clip_score" with
            the text; each of them with the ends of its interval, "_ci_low" and "_ci_high"; "count"
            and "seconds"; and of pictures of what was predicted from captions "shuffled", as
            `shuffled` has it. By the name of each of `strata` the same of its pictures alone: the
            balls of precision and its like are those of all; what needs more pictures than there
            are is left out.
        """
        real, every = real_of(case, self.real), np.arange(len(self.chunks.captions))
        pair = compared_with(case, real)
        found: dict[str, Any] = set_scores(self.statistics, pair, self.extractors)
        by_picture = self.manifolds.inside(pair) | self._similarities(case, real, every, every)
        found |= self._means(case, real, every, every, by_picture)
        if isinstance(case, Decoded) and case.source != REAL:
            found[SHUFFLED] = self.shuffled(case)
        for name, stratum in self.strata.items():
            rows = stratum.rows
            inside = {score: values[rows] for score, values in by_picture.items()}
            found[name] = stratum.set_scores(pair) | self._means(case, real, rows, rows, inside)
        return found | {"seconds": round(float(self._by_caption(case, SECONDS).sum()), 3)}

    def shuffled(self, case: Pictures) -> dict[str, Any]:
        """The similarities of a case's pictures to other captions, and to their images.

        What no reading of the caption gives. The captions are the same ones for every case. By the
        name of each of `strata` those of its pictures.
        """
        others = derangement(len(self.chunks.captions)).numpy()
        text = self.chunks.captions.gather(others, self.text_embeddings, "text")
        z, images = self.embeddings(case), self.embeddings(real_of(case, self.real))[others]
        to_image, to_text = (
            mean_encoder_cosine(z, each, self.encoder_dims).numpy()
            for each in (images, torch.from_numpy(text).float())
        )
        similarities = _named(to_image, to_text)
        found: dict[str, Any] = _with_count(similarities, len(others))
        for name, stratum in self.strata.items():
            of_rows = {score: values[stratum.rows] for score, values in similarities.items()}
            found[name] = _with_count(of_rows, len(stratum.rows))
        return found

    def real_against_real(self, size: int) -> dict[str, Any]:
        """`scores` of a random half of the real images against the other half: the best possible.

        Distances between sets of half the size are more biased than the other rows'. The similarity
        to an image is to one of the other half, that to a text is to the image's own caption. With
        fewer than eight images there are similarities alone. The halves of a stratum are dealt
        anew, but for precision and its like: those of its images in the halves of all.

        Args:
            size: Pixels to a side of the pictures whose scores stand beside these.
        """
        real, total, found = self.real[size], len(self.chunks.captions), dict[str, Any]()
        pair, inside = halves_of(real), dict[str, NDArray[Any]]()
        half, other = (each.rows(total) for each in (pair.ours, pair.theirs))
        if len(half) >= FEWEST_IN_A_HALF:
            found |= set_scores(self.statistics, pair, self.extractors)
            inside = self.manifolds.inside(pair)
        similarities = self._similarities(real, real, half, other)
        found |= self._means(real, real, half, other, inside | similarities)
        for name, stratum in self.strata.items():
            rows, among = stratum.rows, len(stratum.rows)
            ours, theirs = (rows[each.rows(among)] for each in (pair.ours, pair.theirs))
            part = stratum.set_scores(pair)
            for score, values in inside.items():
                chosen = values[np.isin(half if score in OF_OURS else other, rows)]
                part |= with_intervals({score: chosen}) if len(chosen) else {}
            similarities = self._similarities(real, real, ours, theirs)
            found[name] = part | self._means(real, real, ours, theirs, similarities)
        return found

    def embeddings(self, case: Pictures) -> Tensor:
        """CLIP's embeddings of a case's pictures [n, d], in the captions' order."""
        return torch.from_numpy(self._by_caption(case, CLIP))

    def displayed(self, case: Pictures) -> Tensor:
        """The pictures of a case that grids show, float32 [n, 3, s, s] in [0, 1]."""
        first = self.chunks.shards_of(case)[0]
        return torch.from_numpy(np.array(self.features.mapped(first, PICTURES))).float() / 255

    def _similarities(
        self, case: Pictures, real: RealImages, ours: NDArray[np.int64], theirs: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Those of a case's pictures of some captions [n] to real images of others [n]."""
        z, z_real = self.embeddings(case)[ours], self.embeddings(real)[theirs]
        to_image = mean_encoder_cosine(z, z_real, self.encoder_dims).numpy()
        return _named(to_image, self._by_caption(case, TO_TEXT)[ours])

    def _means(
        self,
        case: Pictures,
        real: RealImages,
        ours: NDArray[np.int64],
        theirs: NDArray[np.int64],
        by_picture: Mapping[str, NDArray[Any]],
    ) -> dict[str, float]:
        """The means over pictures, their nearness to training images, and "count".

        Args:
            case: The pictures.
            real: The real images.
            ours: The captions of pictures [n].
            theirs: The captions of the real images that they are compared with [n].
            by_picture: What scores are the means of.
        """
        found = _with_count(by_picture, len(ours))
        if self.nearest is None or not len(ours):
            return found
        nearest, of_real = self._nearest(case)[ours], self._nearest(real)[theirs]
        distances = {"nearest_distance": 1 - nearest.astype(np.float64)}
        return memorisation_scores(nearest, of_real) | with_intervals(distances) | found

    def _by_caption(self, case: Pictures, name: str) -> NDArray[Any]:
        """An array of the features' store [n, …], in the captions' order."""
        shards = self.chunks.shards_of(case)
        stored = np.concatenate([self.features.mapped(shard, name) for shard in shards])
        found = np.empty_like(stored)
        found[np.concatenate([self.chunks.part(shard)[1] for shard in shards])] = stored
        return found

    def _nearest(self, case: Pictures) -> NDArray[np.floating[Any]]:
        """The cosines [n] of pictures to their nearest training images, in the captions' order."""
        assert self.nearest is not None, "nearest training images were not looked for"
        store, chunks = self.nearest
        return np.concatenate([store.mapped(each, "cosine") for each in chunks.shards_of(case)])


def _named(to_image: NDArray[Any], to_text: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The scores of each picture [n] by its cosines to an image [n] and to a caption [n]."""
    named = {"clip_similarity_image": to_image, "clip_similarity_text": to_text}
    return named | {"clip_score": clip_scores(to_text)}


def _with_count(by_picture: Mapping[str, NDArray[Any]], count: int) -> dict[str, float]:
    """The means over pictures [n], with intervals, and n; of none that alone."""
    return {**(with_intervals(by_picture) if count else {}), "count": count}


def compared_with(case: Pictures, real: RealImages) -> Compared:
    """All pictures of a case beside the real images."""
    return Compared(PictureSet(case), PictureSet(real))


def halves_of(real: RealImages) -> Compared:
    """A random half of the real images beside the other half."""
    return Compared(PictureSet(real, half=0), PictureSet(real, half=1))


def picture_scorer(
    material: Material,
    captions: HeldOut,
    displayed: NDArray[np.int64],
    cases: tuple[Decoded | StoredPictures, ...],
    inception: str | None = None,
    dinov2: str | None = None,
    near: NDArray[np.bool_] | None = None,
) -> PictureScorer:
    """Decode pictures, and compute their features and those of the real images.

    Args:
        material: Where captions and images are, and where they are computed with.
        captions: Those whose pictures are decoded.
        displayed: The rows of them that grids show.
        cases: The pictures.
        inception: The path of a TorchScript Inception, or None to go without.
        dinov2: The folder of a DINOv2, or None to go without.
        near: Which captions' images have a near neighbour among the training images, or None.

    Returns:
        What scores the pictures.

    Raises:
        CorgiError: there are too few pictures for FID, or pictures and real images differ in more
            than what they show: in size or framing.
    """
    assert material.pixels is not None, "there are no images to compare pictures with"
    if inception is not None:
        check_enough_for_fid(len(captions))
    decoded = [case for case in cases if isinstance(case, Decoded)]
    real = _real_images(material.pixels, decoded)
    stores, rows = (material.image_embeddings, material.text_embeddings), tuple(displayed.tolist())
    samples = dict.fromkeys(case.source for case in decoded if not isinstance(case.source, str))
    sampled = None
    if samples:
        of_samples = Chunks[Predictor](captions, tuple(samples), CHUNK, rows)
        job = SampledEmbeddings(of_samples, *stores, material.precision)
        sampled = material.run(job, material.folder / "embeddings")
    every = dict.fromkeys(chain[Pictures]((RealImages(),), real.values(), cases))
    chunks = Chunks[Pictures](captions, tuple(every), CHUNK, rows)
    features = PictureFeatures(
        chunks, *stores, material.pixels, material.clip, sampled, inception, material.precision,
        material.images, dinov2,
    )  # fmt: skip
    stored, nearest = material.run(features, material.folder / "pictures"), None
    if material.trained_here:
        compared = tuple(dict.fromkeys(chain[Pictures](real.values(), cases)))
        search = PictureNeighbours(
            Chunks[Pictures](captions, compared, COMPARED_AT_ONCE), chunks, stored,
            material.images, material.image_embeddings,
        )  # fmt: skip
        nearest = material.run(search, material.folder / "picture_neighbours"), search.images
    extractors = [CLIP, *([INCEPTION] if inception else []), *([DINOV2] if dinov2 else [])]
    halves = len(captions) // 2 >= FEWEST_IN_A_HALF
    pairs = [compared_with(case, real_of(case, real)) for case in chunks.cases]
    pairs += [halves_of(each) for each in real.values() if halves]
    folder, strata = material.folder / "picture_statistics", dict[str, PictureStratum]()
    given = SetFeatures(chunks, stored), extractors, pairs
    statistics = PictureStatistics.computed(material.run, folder, *given)
    manifolds = PictureManifolds.computed(material.run, folder, *given)
    if near is not None:
        strata = picture_strata(near, material.run, folder, *given, statistics)
    return PictureScorer(
        stored, chunks, material.encoder_dims, material.text_embeddings, real, statistics,
        manifolds, extractors, nearest, strata,
    )  # fmt: skip


def real_of(case: Pictures, real: Mapping[int, RealImages]) -> RealImages:
    """The real images that pictures are compared with: those of their size."""
    if isinstance(case, RealImages):
        return case
    if isinstance(case, StoredPictures):
        return real[case.size]
    return real[case.decoder.settings.image_size]


def _real_images(pixels: ArrayStore, cases: Iterable[Decoded]) -> dict[int, RealImages]:
    """The real images for every size of the pictures, framed as the decoders have learned.

    Raises:
        CorgiError: a decoder's pictures are larger than the stored ones, or framed otherwise.
    """
    stored, framing = pixels.spec["size"], pixels.spec.get("framing", LETTERBOX)
    sizes = dict[int, RealImages]()
    for case in cases:
        size = case.decoder.settings.image_size
        if size > stored:
            raise CorgiError(
                f"the {case.decoder.kind} decoder makes pictures of {size} pixels to a side, and "
                f"the real ones are stored with {stored}: sharpness alone would set them apart",
                f"store the images larger (image_size={size}), and evaluate again",
            )
        if (learned := case.decoder.encoders.get("framing", LETTERBOX)) != framing:
            raise CorgiError(
                f"the {case.decoder.kind} decoder has learned from images framed by {learned}, and "
                f"the real ones are framed by {framing}: white bars alone would set them apart",
                f"evaluate on images framed alike (framing={learned})",
            )
        sizes[size] = RealImages(None if size == stored else size)
    return sizes
