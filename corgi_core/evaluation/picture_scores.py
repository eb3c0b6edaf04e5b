"""Scores of decoded pictures against the real ones, from the features of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from corgi_core.data.arrays import ArrayStore
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import COMPARED_AT_ONCE
from corgi_core.evaluation.picture_features import (
    CHUNK,
    CLIP,
    DINOV2,
    INCEPTION,
    PICTURES,
    SECONDS,
    TO_TEXT,
    Decoded,
    PictureFeatures,
    Pictures,
    RealImages,
    StoredPictures,
)
from corgi_core.evaluation.picture_neighbours import PictureNeighbours
from corgi_core.evaluation.sampling import Sampled, SampledEmbeddings
from corgi_core.metrics.bootstrap import with_intervals
from corgi_core.metrics.clip_score import clip_score
from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.features import Features
from corgi_core.metrics.frechet import Quarters, frechet_estimate
from corgi_core.metrics.kid import kid
from corgi_core.metrics.memorisation import memorisation
from corgi_core.metrics.precision_recall import DENSE_NEIGHBOURS, Manifold, between
from corgi_core.metrics.vendi import vendi

FEWEST_FOR_FID = 50  # pictures: with fewer even the bias of an FID cannot be estimated
HALVES_SEED = 0  # of the real images' two halves
FEWEST_IN_A_HALF = 4  # real images, for distances between the halves
LETTERBOX = "letterbox"  # the framing of stores that name none
FRECHET = {CLIP: "frechet_clip", INCEPTION: "fid", DINOV2: "frechet_dinov2"}
"""The names of the Fréchet distance, by the features' extractor."""
KERNEL = {INCEPTION: "kid", DINOV2: "kid_dinov2"}
"""Those of the kernel distance; CLIP's embeddings, of norm 1, have CMMD instead."""


@dataclass(frozen=True)
class PictureScorer:
    """Compares pictures with the real images, each counted once.

    Attributes:
        features: The arrays of `PictureFeatures`; the real images are one of their cases.
        chunks: Their captions and cases.
        encoder_dims: Widths of the CLIP encoders.
        real: The real images by the size of the pictures that are compared with them.
        extractors: The names of the features' arrays. Precision, recall, density and coverage are
            of the last one.
        nearest: The arrays of `PictureNeighbours` and their chunks; None where the models learned
            from other images.
    """

    features: ArrayStore
    chunks: Chunks[Pictures]
    encoder_dims: Sequence[int]
    real: Mapping[int, RealImages]
    extractors: Sequence[str] = (CLIP,)
    nearest: tuple[ArrayStore, Chunks[Pictures]] | None = None

    def scores(self, case: Pictures) -> dict[str, Any]:
        """Scores of a case's pictures, with the seconds of decoding, summed over all workers.

        Returns:
            "frechet_clip", and with their features "fid" and "frechet_dinov2", each beside its
            "_bias" from eight pictures on; "kid" and "kid_dinov2"; "cmmd"; "precision"
            and "recall", and from six pictures on "density" and "coverage"; "vendi";
            "memorisation", "copies" and "nearest_distance", 1 − the cosine to the nearest training
            image;
            "clip_similarity_image" and "clip_similarity_text" with the ends of their intervals,
            "clip_score" with the text; "count" and "seconds".
        """
        real = self._real_of(case)
        found: dict[str, Any] = {}
        for extractor in self.extractors:
            ours, theirs = self._of(case, extractor), self._of_real(real, extractor)
            found |= _set_scores(extractor, theirs, ours)
        found |= manifold_scores(theirs, ours)
        if self.nearest is not None:
            found |= _memorisation(*(self._nearest(each) for each in (case, real)))
        to_image, to_text, seconds = map(
            np.concatenate, zip(*self._similarities(case, real), strict=True)
        )
        return found | {
            **with_intervals({"clip_similarity_image": to_image, "clip_similarity_text": to_text}),
            "clip_score": clip_score(to_text),
            "count": len(self.chunks.captions),
            "seconds": round(float(seconds.sum()), 3),
        }

    def real_against_real(self, size: int) -> dict[str, Any]:
        """`scores` of a random half of the real images against the other half: the best possible.

        Distances between sets of half the size are more biased than the other rows'. The similarity
        to an image is to one of the other half, that to a text is to the image's own caption. With
        fewer than eight images there are similarities alone.

        Args:
            size: Pixels to a side of the pictures whose scores stand beside these.
        """
        real, found = self.real[size], dict[str, Any]()
        order = np.random.default_rng(HALVES_SEED).permutation(len(self.chunks.captions))
        n = len(order) // 2
        half, other = order[:n], order[n : 2 * n]
        if n >= FEWEST_IN_A_HALF:
            for extractor in self.extractors:
                features = self._of_real(real, extractor).features
                ours, theirs = PictureSet(features[half]), PictureSet(features[other])
                found |= _set_scores(extractor, theirs, ours)
            found |= manifold_scores(theirs, ours)
        if self.nearest is not None:
            nearest = self._nearest(real)
            found |= _memorisation(nearest[half], nearest[other])
        z, shards = self.embeddings(real), self.chunks.shards_of(real)
        to_image = mean_encoder_cosine(z[half], z[other], self.encoder_dims).numpy()
        to_text = np.concatenate([self.features.mapped(shard, TO_TEXT) for shard in shards])[half]
        return found | {
            **with_intervals({"clip_similarity_image": to_image, "clip_similarity_text": to_text}),
            "clip_score": clip_score(to_text),
            "count": n,
        }

    def embeddings(self, case: Pictures) -> Tensor:
        """CLIP's embeddings of a case's pictures [n, d]."""
        parts = [self.features.mapped(s, CLIP) for s in self.chunks.shards_of(case)]
        return torch.from_numpy(np.concatenate(parts))

    def displayed(self, case: Pictures) -> Tensor:
        """The pictures of a case that grids show, float32 [n, 3, s, s] in [0, 1]."""
        first = self.chunks.shards_of(case)[0]
        return torch.from_numpy(np.array(self.features.mapped(first, PICTURES))).float() / 255

    def _real_of(self, case: Pictures) -> RealImages:
        """The real images that pictures are compared with: those of their size."""
        if isinstance(case, RealImages):
            return case
        if isinstance(case, StoredPictures):
            return self.real[case.size]
        return self.real[case.decoder.settings.image_size]

    def _of_real(self, real: RealImages, extractor: str) -> PictureSet:
        """As `_of`, computed once for all cases."""
        if (real, extractor) not in self._sets:
            self._sets[real, extractor] = self._of(real, extractor)
        return self._sets[real, extractor]

    @cached_property
    def _sets(self) -> dict[tuple[RealImages, str], PictureSet]:
        """The real images' features that were needed."""
        return {}

    def _of(self, case: Pictures, extractor: str) -> PictureSet:
        """A case's features, all in memory and in the chunks' order; CLIP's of norm 1."""
        if extractor == CLIP:
            return PictureSet(F.normalize(self.embeddings(case), dim=1).numpy())
        parts = [self.features.mapped(shard, extractor) for shard in self.chunks.shards_of(case)]
        return PictureSet(np.concatenate(parts))

    def _nearest(self, case: Pictures) -> NDArray[np.floating[Any]]:
        """The cosines [n] of pictures to their nearest training images, in the features' order."""
        assert self.nearest is not None, "nearest training images were not looked for"
        store, chunks = self.nearest
        cosines = np.concatenate([store.mapped(each, "cosine") for each in chunks.shards_of(case)])
        rows = [self.chunks.part(shard)[1] for shard in self.chunks.shards_of(case)]
        return np.asarray(cosines[np.concatenate(rows)])

    def _similarities(self, case: Pictures, real: RealImages) -> Iterator[tuple[np.ndarray, ...]]:
        """The cosines to the images and to the captions, and the seconds, chunk by chunk."""
        of_real = self.chunks.shards_of(real)
        for shard, its_real in zip(self.chunks.shards_of(case), of_real, strict=True):
            ours, theirs = (
                torch.from_numpy(np.array(self.features.mapped(s, CLIP))) for s in (shard, its_real)
            )
            yield (
                mean_encoder_cosine(ours, theirs, self.encoder_dims).numpy(),
                self.features.mapped(shard, TO_TEXT),
                self.features.mapped(shard, SECONDS),
            )


@dataclass(frozen=True)
class PictureSet:
    """Features of a set of pictures [n, d], and what follows from them."""

    features: Features

    @cached_property
    def quarters(self) -> Quarters:
        """Sums over four quarters."""
        return Quarters.of(self.features)

    @cached_property
    def manifold(self) -> Manifold:
        """The balls around the features."""
        return Manifold.of(self.features, min(DENSE_NEIGHBOURS, len(self.features) - 1))


def _set_scores(extractor: str, real: PictureSet, ours: PictureSet) -> dict[str, float]:
    """`distances`, and of CLIP's features CMMD and the Vendi score."""
    found = distances(extractor, real, ours)
    if extractor == CLIP:
        found["cmmd"] = cmmd(real.features, ours.features).value
        found["vendi"] = vendi(ours.features)
    return found


def _memorisation(
    ours: NDArray[np.floating[Any]], real: NDArray[np.floating[Any]]
) -> dict[str, float]:
    """Of cosines to the nearest training images: our pictures' and the real ones'."""
    nearest_distance = 1 - float(ours.mean(dtype=np.float64))
    return memorisation(ours, real)._asdict() | {"nearest_distance": nearest_distance}


def distances(extractor: str, real: PictureSet, ours: PictureSet) -> dict[str, float]:
    """The Fréchet distance with its bias, and the kernel distance, by the extractor's names."""
    frechet, kernel = FRECHET[extractor], KERNEL.get(extractor)
    estimate = frechet_estimate(ours.quarters, real.quarters)
    found = {frechet: estimate.value}
    if estimate.bias is not None:
        found[f"{frechet}_bias"] = estimate.bias
    if kernel is not None:
        found[kernel] = kid(real.features, ours.features).value
    return found


def manifold_scores(real: PictureSet, ours: PictureSet) -> dict[str, float]:
    """Density and coverage are left out where there are too few pictures for their balls."""
    scores = between(real.manifold, ours.manifold)._asdict()
    if real.manifold.nearest.shape[1] < DENSE_NEIGHBOURS:
        del scores["density"], scores["coverage"]
    return scores


def check_enough_for_fid(count: int) -> None:
    """Raise CorgiError where there are too few pictures to call a distance FID."""
    if count < FEWEST_FOR_FID:
        raise CorgiError(
            f"{count} pictures are too few for FID, which needs {FEWEST_FOR_FID}, and thousands to "
            "mean much",
            "compare more pictures (in an evaluation: evaluation.images), or leave Inception out",
        )


def picture_scorer(
    material: Material,
    captions: HeldOut,
    displayed: NDArray[np.int64],
    cases: tuple[Decoded | StoredPictures, ...],
    inception: str | None = None,
    dinov2: str | None = None,
) -> PictureScorer:
    """Decode pictures, and compute their features and those of the real images.

    Args:
        material: Where captions and images are, and where they are computed with.
        captions: Those whose pictures are decoded.
        displayed: The rows of them that grids show.
        cases: The pictures.
        inception: The path of a TorchScript Inception, or None to go without.
        dinov2: The folder of a DINOv2, or None to go without.

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
    samples = dict.fromkeys(case.source for case in decoded if isinstance(case.source, Sampled))
    sampled = None
    if samples:
        of_samples = Chunks(captions, tuple(samples), CHUNK, rows)
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
        near = PictureNeighbours(
            Chunks[Pictures](captions, compared, COMPARED_AT_ONCE), chunks, stored,
            material.images, material.image_embeddings,
        )  # fmt: skip
        nearest = material.run(near, material.folder / "picture_neighbours"), near.images
    extractors = [CLIP, *([INCEPTION] if inception else []), *([DINOV2] if dinov2 else [])]
    return PictureScorer(stored, chunks, material.encoder_dims, real, extractors, nearest)


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
