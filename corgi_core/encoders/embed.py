"""Embeds a dataset, shard by shard: images under a CLIP ensemble, captions under it and as tokens.

Stored in float16; a shard that is there already is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from upath import UPath

from corgi_core.config import Framing, InferencePrecision, TextFeatures
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.data.image_index import SOURCE, is_online
from corgi_core.data.pixels import decoded
from corgi_core.data.prefetch import batched, in_order
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.revisions import (
    IMAGE_EMBEDDING_REVISION,
    PRECOMPUTED_EMBEDDING_REVISION,
    TEXT_EMBEDDING_REVISION,
)
from corgi_core.data.vectors import Space, read_vector
from corgi_core.devices import one_thread_each
from corgi_core.encoders.caption_tokens import ARRAYS, ENCODER, FEATURES, stored_texts
from corgi_core.encoders.fitting import check_model_fits
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.encoders.tokens import TokenEncoder, ragged
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of

if TYPE_CHECKING:  # open_clip takes seconds to import, and who names a source needs none of it
    from corgi_core.encoders.clip import ClipEnsemble

ClipSource: TypeAlias = Path | UPath | tuple[str, ...]
Batch = TypeVar("Batch")

_BATCH = 128  # images, for a GPU
_CPU_BATCH = 32  # a thread; larger ones leave the caches, and their memory returns to the system
_TEXT_BATCH = 256  # captions


@dataclass(frozen=True)
class ImageEmbedding(ArrayJob):
    """What `embed_images` computes, by an ensemble that lies in a folder or has names.

    Attributes:
        images: The dataset.
        pixels: As `embed_images` reads them.
        clip: As `ClipEnsemble.load` reads it.
        precision: Of the encoder, as `corgi_core.devices` describes it.
    """

    images: Dataset
    pixels: ArrayStore | None
    clip: ClipSource
    precision: InferencePrecision = field(default="auto", kw_only=True)
    what = "image embeddings"
    revision = IMAGE_EMBEDDING_REVISION
    uses_device = True

    @property
    def about(self) -> dict[str, Any]:
        """The ensemble's, `encoder_spec`, and the images' framing."""
        return _about_images(self._ensemble, self.pixels)

    @cached_property
    def _ensemble(self) -> ClipEnsemble:
        from corgi_core.encoders.clip import ClipEnsemble

        return ClipEnsemble.load(self.clip)

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its embeddings."""
        self._ensemble.precision = self.precision
        check_model_fits(self._ensemble, " + ".join(self._ensemble.names), device)
        return _image_encoding(self._ensemble.to(device), self.images, self.pixels, threads)


@dataclass(frozen=True)
class TextEmbedding(ArrayJob):
    """What `embed_texts` computes, by encoders that lie in folders or have names.

    Attributes:
        images: The dataset with the captions.
        clip: As `ClipEnsemble.load` reads it.
        text: The text encoder's name, as `TokenEncoder.load` reads it.
        text_tokens: At most this many tokens a caption.
        features: "cached" stores the captions' tokens, "online" the captions themselves, which the
            text encoder reads again whenever tokens are needed.
        precision: Of the encoders on a GPU, as `corgi_core.devices.inference` has it.
    """

    images: Dataset
    clip: ClipSource
    text: str
    text_tokens: int
    features: TextFeatures = "cached"
    precision: InferencePrecision = field(default="auto", kw_only=True)
    what = "text embeddings"
    revision = TEXT_EMBEDDING_REVISION
    uses_device = True

    @property
    def about(self) -> dict[str, Any]:
        """The ensemble's and the text encoder's."""
        return _about_texts(*self._encoders, self.features)

    @cached_property
    def _encoders(self) -> tuple[ClipEnsemble, TokenEncoder]:
        from corgi_core.encoders.clip import ClipEnsemble

        return ClipEnsemble.load(self.clip), TokenEncoder.load(self.text, self.text_tokens)

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its captions' embeddings and tokens."""
        clip, tokens = self._encoders
        clip.precision = tokens.precision = self.precision
        check_model_fits(clip, " + ".join(clip.names), device)
        if self.features == "online":
            return _text_encoding(clip.to(device), None, self.images, threads)
        check_model_fits(tokens, tokens.name, device)
        return _text_encoding(clip.to(device), tokens.to(device), self.images, threads)


@dataclass(frozen=True)
class PrecomputedEmbedding(ArrayJob):
    """The dataset's own embeddings, stored as those of `ImageEmbedding` are."""

    images: Dataset
    what = "image embeddings"
    revision = PRECOMPUTED_EMBEDDING_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """The encoders that the files name; their digest stays when data are added."""
        first = self.images.shard_digest(self.images.shards[0])
        encoder = digest_of(self._space.names, self._space.encoder_dims, first)
        return _space_spec(encoder, self._space.names, self._space.encoder_dims)

    @cached_property
    def _space(self) -> Space:
        _, first = next(self.images.images(self.images.shards[0]))
        return read_vector(first)[0]

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its embeddings; it computes on one CPU."""
        dims = self._space.encoder_dims

        def scaled(shard: str) -> Arrays:
            keys, files = zip(*self.images.images(shard), strict=True)
            vectors = torch.from_numpy(np.stack([read_vector(file)[1] for file in files]))
            z = scale_per_encoder(vectors, dims)
            encoder = "the encoder of these embeddings"
            return {"keys": np.array(keys), "image": _as_float16(z, encoder)}

        return scaled


def embed_images(
    clip: ClipEnsemble, images: Dataset, pixels: ArrayStore | None, folder: Path | UPath
) -> ArrayStore:
    """Embed every image under the CLIP ensemble.

    Args:
        clip: The ensemble whose image towers embed the images.
        images: The dataset.
        pixels: The images as squares. They are read where they are stored, and at least as large
            as what the encoders read; else the images themselves are, at the encoders' own size and
            framed alike. By default letterboxed.
        folder: Where the arrays are stored; shards that are there already are not computed again.

    Returns:
        "image" float16 [n, d], row keys being the images' keys.

    Raises:
        CorgiError: an encoder made a value that is not finite or that float16 cannot hold.
    """
    compute = _image_encoding(clip, images, pixels, torch.get_num_threads())
    spec = _about_images(clip, pixels) | {"revision": ImageEmbedding.revision}
    return compute_missing(folder, images, spec, compute, ImageEmbedding.what)


def embed_precomputed(images: Dataset, folder: Path | UPath) -> ArrayStore:
    """The dataset's own embeddings, stored as `embed_images` stores those that it computes."""
    return PrecomputedEmbedding(images).run(folder, "cpu", threads=1)


def embed_texts(
    clip: ClipEnsemble,
    tokens: TokenEncoder,
    images: Dataset,
    folder: Path | UPath,
    features: TextFeatures = "cached",
) -> ArrayStore:
    """Embed every caption under the CLIP ensemble, and as tokens.

    Args:
        clip: The ensemble whose text towers embed the captions.
        tokens: The text encoder whose tokens the prior reads.
        images: The dataset with the captions.
        folder: Where the arrays are stored; shards that are there already are not computed again.
        features: As `TextEmbedding` has it.

    Returns:
        One row a caption, its key being its image's, an image's captions in their order: "text"
        float16 [m, d], and ragged "tokens", float16 with w values a token, or "captions", UTF-8.

    Raises:
        CorgiError: an encoder made a value that is not finite or that float16 cannot hold.
    """
    encoder = tokens if features == "cached" else None
    spec = _about_texts(clip, tokens, features) | {"revision": TextEmbedding.revision}
    compute = _text_encoding(clip, encoder, images, torch.get_num_threads())
    return compute_missing(folder, images, spec, compute, TextEmbedding.what)


def _image_encoding(
    clip: ClipEnsemble, images: Dataset, pixels: ArrayStore | None, threads: int
) -> Callable[[str], Arrays]:
    large_enough = (
        pixels is not None and not is_online(pixels) and pixels.spec["size"] >= clip.image_size
    )
    size = _CPU_BATCH if clip.device.type == "cpu" else _BATCH

    def encode(shard: str) -> Arrays:
        if pixels is not None and large_enough:
            keys, squares = pixels.read_with_keys(shard, "pixels")
            stored = zip(_split(keys, size), _split(squares, size), strict=True)
            encoded = _encoded(clip, stored, lambda batch: batch, threads)
        else:
            files = batched(images.images(shard), size)
            decode = partial(decoded, size=clip.image_size, framing=_framing(pixels))
            encoded = _encoded(clip, files, decode, threads)
        with one_thread_each():
            keys_of, embeddings = zip(*encoded, strict=True)
        return {
            "keys": np.concatenate(keys_of),
            "image": _as_float16(torch.cat(embeddings), _named(clip)),
        }

    return encode


def _encoded(
    clip: ClipEnsemble,
    batches: Iterable[Batch],
    decode: Callable[[Batch], tuple[np.ndarray, np.ndarray]],
    threads: int,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(keys, embeddings) of each batch: threads decode, and on a CPU encode too.

    A GPU encodes one batch while they decode the next ones.
    """

    def encode(decoded: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, Tensor]:
        keys, squares = decoded
        return keys, clip.encode_images(torch.from_numpy(squares))

    if clip.device.type == "cpu":
        return in_order(lambda batch: encode(decode(batch)), batches, threads)
    return map(encode, in_order(decode, batches, threads))


def _text_encoding(
    clip: ClipEnsemble, tokens: TokenEncoder | None, images: Dataset, threads: int
) -> Callable[[str], Arrays]:
    """Without a text encoder the captions are stored instead of their tokens."""

    def encode(captions: list[str]) -> tuple[np.ndarray, RaggedArray]:
        texts = _as_float16(clip.encode_texts(captions), _named(clip))
        if tokens is None:
            return texts, stored_texts(captions)
        found = ragged(*tokens.encode(captions))
        named = f"the text encoder {tokens.name!r}"
        values = _as_float16(torch.from_numpy(found.values), named)
        return texts, RaggedArray(values, found.offsets)

    def encode_shard(shard: str) -> Arrays:
        rows = images.rows(shard)
        by_image = zip(rows["key"], rows["captions"], strict=True)
        pairs = [(key, text) for key, texts in by_image for text in texts or []]
        captions = [text for _, text in pairs]
        by_length = sorted(range(len(pairs)), key=lambda row: len(captions[row]))
        chosen = batched((captions[row] for row in by_length), _TEXT_BATCH)
        with one_thread_each():
            texts, read = zip(empty, *in_order(encode, chosen, threads), strict=True)
        in_turn = np.argsort(by_length)
        return {
            "keys": np.array([key for key, _ in pairs], dtype=str),
            "text": np.concatenate(texts)[in_turn],
            array: RaggedArray.concatenated(read).take(in_turn),
        }

    array = ARRAYS["cached" if tokens else "online"]
    # Sets the tokenizers' lengths; from then on they only read, in any thread.
    text, vectors = encode([""])
    empty = text[:0], vectors.take(np.arange(0))
    return encode_shard


def encoder_spec(clip: ClipEnsemble) -> dict[str, Any]:
    """Which encoders made an embedding; embeddings whose specs differ cannot be compared."""
    return _space_spec(clip.space, clip.names, clip.encoder_dims)


def _about_images(clip: ClipEnsemble, pixels: ArrayStore | None) -> dict[str, Any]:
    online = {SOURCE: "online"} if pixels is not None and is_online(pixels) else {}
    return encoder_spec(clip) | {"framing": _framing(pixels)} | online


def _framing(pixels: ArrayStore | None) -> Framing:
    framing: Framing = "letterbox" if pixels is None else pixels.spec["framing"]
    return framing


def _space_spec(encoder: str, names: Sequence[str], encoder_dims: Sequence[int]) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "names": list(names),
        "encoder_dims": list(encoder_dims),
        "width": sum(encoder_dims),
    }


def _about_texts(
    clip: ClipEnsemble, tokens: TokenEncoder, features: TextFeatures
) -> dict[str, Any]:
    spec = encoder_spec(clip) | {
        "text_encoder": tokens.digest,
        "text_width": tokens.width,
        "text_tokens": tokens.max_tokens,
        FEATURES: features,
    }
    if features == "online":
        spec[ENCODER] = tokens.name
    if clip.space != clip.digest:
        spec["text_tower"] = clip.digest
    return spec


def _split(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def _named(clip: ClipEnsemble) -> str:
    return f"an encoder of {', '.join(clip.names)}"


def _as_float16(values: Tensor, encoder: str) -> np.ndarray:
    """The values as they are stored; CorgiError where one is NaN or leaves float16's range."""
    if not bool(torch.isfinite(values).all()):
        raise CorgiError(f"{encoder} made a value that is not finite", "check its weights")
    stored = values.half()
    if not bool(torch.isfinite(stored).all()):
        raise CorgiError(
            f"{encoder} made a value of {values.abs().max():.4g}, and embeddings are stored in "
            f"float16, whose largest number is {torch.finfo(torch.float16).max:.0f}",
            "choose another encoder (encoders.text for tokens, encoders.clip for embeddings)",
        )
    return stored.cpu().numpy()
