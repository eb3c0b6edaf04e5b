"""Features of pictures, real or decoded for held-out captions, stored chunk by chunk.

A picture is decoded, its features are computed, and it is given up: memory holds a batch of them.
Those that grids show are stored, as bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.config import InferencePrecision
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.revisions import PICTURE_FEATURES_REVISION
from corgi_core.decoders.decoder import Decoder
from corgi_core.devices import wait_for
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import ClipSource
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.predictors import Predictor
from corgi_core.evaluation.sharing import Columns, in_batches
from corgi_core.evaluation.stored_models import Latest, StoredDecoder
from corgi_core.io.files import digest_of, digest_of_file
from corgi_core.metrics.dinov2 import Dinov2Features, dinov2_digest
from corgi_core.metrics.inception import InceptionFeatures
from corgi_core.streaming.squares import Squares

CHUNK = 256  # captions whose pictures are stored at once, as features
BATCH, BATCH_PIXELS = 64, 2**22  # pictures, and their pixels, that a CPU has at once …
GPU_BATCH, GPU_BATCH_PIXELS = 256, 2**26  # … and a GPU
REAL, TEXT = "real", "text"  # the image's own embedding, the caption's
CLIP_BATCH = 128  # pictures that CLIP embeds at once
# names of arrays:
CLIP, INCEPTION, DINOV2 = "clip", "inception", "dinov2"
PICTURES, TO_TEXT, SECONDS = "pictures", "to_text", "seconds"


@dataclass(frozen=True)
class Decoded:
    """Pictures that a decoder makes of embeddings.

    Attributes:
        decoder: The decoder.
        source: REAL, TEXT, or what predicts them, by one number of sampling steps.
        seed: Of the decoder's noise.
        guidance: The decoder's; None for its own.
    """

    decoder: StoredDecoder
    source: str | Predictor
    seed: int
    guidance: float | None = None

    @property
    def digest(self) -> str:
        """Names the decoder, with its settings, the embeddings, the seed and another guidance."""
        source = self.source if isinstance(self.source, str) else self.source.digest
        guidance = [] if self.guidance is None else [self.guidance]
        return digest_of("decoded", self.decoder.digest, source, self.seed, *guidance)


@dataclass(frozen=True)
class RealImages:
    """The held-out images themselves.

    Attributes:
        size: Pixels to a side; None for those of the stored pixels.
    """

    size: int | None = None

    @property
    def digest(self) -> str:
        """Names the images' size, where it is not the stored pixels'."""
        return digest_of("real images", *([] if self.size is None else [self.size]))


@dataclass(frozen=True)
class StoredPictures:
    """Other stored images in the test images' role, such as the nearest training images.

    Attributes:
        images: One image for each caption.
        pixels: Theirs.
        dataset: Their files, where the pixels are decoded from them.
        size: Pixels to a side.
    """

    images: HeldOut
    pixels: ArrayStore
    dataset: Dataset
    size: int

    @property
    def digest(self) -> str:
        """Names the images, their pixels and the size."""
        return digest_of("stored", self.images.digest, self.pixels.digest, self.size)

    def read(self, rows: NDArray[np.int64], at: NDArray[np.int64]) -> Tensor:
        """The images of some of the captions, float32 [b, 3, s, s] in [0, 1]."""
        squares = Squares(self.pixels, self.dataset)
        return self.images.gather_squares(rows[at], squares, self.size).float() / 255


Pictures = Decoded | RealImages | StoredPictures


@dataclass(frozen=True)
class PictureFeatures(ArrayJob):
    """Features of every case's pictures.

    Arrays: "clip" [n, d], CLIP's embeddings of the pictures; "inception" [n, f], with `inception`;
    "dinov2" [n, e], with `dinov2`;
    "to_text" [n], their cosine to the caption's embedding; "seconds" [n], of decoding; and of the
    displayed captions "pictures", uint8 [n, 3, s, s].

    Attributes:
        images: The captions in chunks, and the pictures.
        image_embeddings: The images' own embeddings.
        text_embeddings: The captions' embeddings.
        pixels: The images.
        clip: As `ClipEnsemble.load` reads it.
        sampled: The array "z" of every prediction, in the same chunks.
        inception: The path of a TorchScript Inception, or None.
        precision: Of decoding and encoding on a GPU.
        dataset: The images' files, where the pixels are decoded from them.
        dinov2: The folder of a DINOv2, or None.
    """

    images: Chunks[Pictures]
    image_embeddings: ArrayStore
    text_embeddings: ArrayStore
    pixels: ArrayStore
    clip: ClipSource
    sampled: ArrayStore | None = None
    inception: str | None = None
    precision: InferencePrecision = "auto"
    dataset: Dataset | None = None
    dinov2: str | None = None
    what = "decoding held-out pictures"
    revision = PICTURE_FEATURES_REVISION
    uses_device = True

    @property
    def weight(self) -> int:
        """Each picture is sampled for, decoded and encoded."""
        return 10

    @property
    def about(self) -> dict[str, Any]:
        """What the features are of, and by which models."""
        return {
            "images": self.image_embeddings.digest,
            "texts": self.text_embeddings.digest,
            "pixels": self.pixels.digest,
            "inception": inception_digest(self.inception),
            "precision": self.precision,
        } | ({"dinov2": dinov2_digest(self.dinov2)} if self.dinov2 else {})

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its features."""
        here, latest = torch.device(device), Latest[Decoder]()
        clip = ClipEnsemble.load(self.clip).to(here)
        clip.precision = self.precision
        extractors: dict[str, InceptionFeatures | Dinov2Features] = {}
        if self.inception:
            extractors[INCEPTION] = InceptionFeatures(self.inception, here)
        if self.dinov2:
            extractors[DINOV2] = Dinov2Features(self.dinov2, here)

        def features(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            captions = self.images.captions
            text = torch.from_numpy(captions.gather(rows, self.text_embeddings, "text")).float()
            make: Callable[[NDArray[np.int64]], Tensor]
            if isinstance(case, RealImages):
                make = partial(self._real, rows, case.size or self.pixels.spec["size"])
            elif isinstance(case, StoredPictures):
                make = partial(case.read, rows)
            else:
                decoder = latest(
                    case.decoder.digest, partial(case.decoder.open, here, self.precision)
                )
                make = partial(_decoded, decoder, self._embeddings(shard, case), rows, case)

            def of(at: NDArray[np.int64]) -> Columns:
                started = time.perf_counter()
                pictures = make(at).to(here)
                wait_for(here)
                seconds = (time.perf_counter() - started) / len(at)
                parts = torch.split(pictures, CLIP_BATCH)
                z = torch.cat([clip.encode_images(part) for part in parts])
                to_text = mean_encoder_cosine(z, text[at].to(here), clip.encoder_dims)
                found = {
                    CLIP: z.cpu().numpy(),
                    TO_TEXT: to_text.cpu().numpy(),
                    SECONDS: np.full(len(at), seconds),
                }
                for name, extractor in extractors.items():
                    found[name] = np.asarray(extractor(pictures))
                if self.images.is_displayed(shard):
                    found[PICTURES] = (pictures * 255).round().to(torch.uint8).cpu().numpy()
                return found

            size, keys = _batch_size(here, case, self.pixels), self.images.keys(shard)
            found = in_batches(of, len(rows), size, here, threads)
            check_finite({name: found[name] for name in (CLIP, *extractors)}, keys)
            return {"keys": keys, **found}

        return features

    def _real(self, rows: NDArray[np.int64], size: int, at: NDArray[np.int64]) -> Tensor:
        """The images of some of the rows, float32 [b, 3, s, s] in [0, 1]."""
        return self.images.captions.gather_squares(rows[at], self._squares, size).float() / 255

    @cached_property
    def _squares(self) -> Squares:
        return Squares(self.pixels, self.dataset)

    def _embeddings(self, shard: str, case: Decoded) -> Tensor:
        """What is decoded, float32 [n, d]."""
        captions, (_, rows) = self.images.captions, self.images.part(shard)
        if not isinstance(case.source, str):
            assert self.sampled is not None, "no samples are given"
            number = shard.rpartition("-")[2]
            z = self.sampled.mapped(f"{case.source.digest}-{number}", "z")
            return torch.from_numpy(np.array(z))
        if case.source == REAL:
            return captions.image_embeddings(rows, self.image_embeddings)
        return torch.from_numpy(captions.gather(rows, self.text_embeddings, "text")).float()


def check_finite(features: Mapping[str, NDArray[Any]], keys: NDArray[np.str_]) -> None:
    """Raise CorgiError where an extractor has made features [n, d] that are not finite.

    Args:
        features: By extractor.
        keys: The images' [n].
    """
    for extractor, array in features.items():
        if len(broken := keys[~np.isfinite(array).all(axis=1)]):
            raise CorgiError(
                f"the {extractor} features of {len(broken)} of {len(keys)} pictures are not "
                f"finite, first those of {str(broken[0])!r}",
                "look for a decoder that has diverged or broken weights of the extractor, and "
                "evaluate again",
            )


def _decoded(
    decoder: Decoder, z: Tensor, rows: NDArray[np.int64], case: Decoded, at: NDArray[np.int64]
) -> Tensor:
    """The pictures of some of the embeddings, each from its own row's noise."""
    return decoder.decode(
        z[at], guidance=case.guidance, seed=case.seed, sample_ids=rows[at].tolist()
    )


def inception_digest(path: str | None) -> str | None:
    """The digest of an Inception's weights."""
    return digest_of_file(Path(path)) if path else None


def _batch_size(device: torch.device, case: Pictures, pixels: ArrayStore) -> int:
    side = case.decoder.settings.image_size if isinstance(case, Decoded) else pixels.spec["size"]
    most, area = (BATCH, BATCH_PIXELS) if device.type == "cpu" else (GPU_BATCH, GPU_BATCH_PIXELS)
    return max(1, min(most, area // side**2))
