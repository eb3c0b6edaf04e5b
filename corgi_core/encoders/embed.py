"""Embeds a dataset, shard by shard: images under a CLIP ensemble, captions under it and as tokens.

Stored in float16; a shard that is there already is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from upath import UPath

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.data.pixels import square
from corgi_core.data.vectors import read_vector
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of

_BATCH = 128


def embed_images(
    clip: ClipEnsemble, images: Dataset, pixels: ArrayStore | None, folder: Path | UPath
) -> ArrayStore:
    """Embed every image under the CLIP ensemble.

    Args:
        clip: The ensemble whose image towers embed the images.
        images: The dataset.
        pixels: The images as squares. They are read where they are at least as large as what the
            encoders read; else the images themselves are, padded with white to squares.
        folder: Where the arrays are stored; shards that are there already are not computed again.

    Returns:
        "image" float16 [n, d], row keys being the images' keys.

    Raises:
        CorgiError: an encoder made a value that is not finite or that float16 cannot hold.
    """
    large_enough = pixels is not None and pixels.spec["size"] >= clip.image_size

    def compute(shard: str) -> dict[str, np.ndarray]:
        if pixels is not None and large_enough:
            keys = pixels.read_shard(shard, "keys")
            batches = iter(
                torch.split(torch.from_numpy(pixels.read_shard(shard, "pixels")), _BATCH)
            )
        else:
            keys = np.array([key for key, _ in images.images(shard)])
            batches = _squares(images, shard, clip.image_size)
        embeddings = torch.cat([clip.encode_images(batch) for batch in batches])
        return {"keys": keys, "image": _as_float16(embeddings, _named(clip))}

    return compute_missing(folder, images, encoder_spec(clip), compute, "image embeddings")


def embed_precomputed(images: Dataset, folder: Path | UPath) -> ArrayStore:
    """The dataset's own embeddings, stored as `embed_images` stores those that it computes."""
    _, first = next(images.images(images.shards[0]))
    space, _ = read_vector(first)
    encoder = digest_of(space.names, space.encoder_dims, images.digest)
    spec = _space_spec(encoder, space.names, space.encoder_dims)

    def compute(shard: str) -> dict[str, np.ndarray]:
        keys, files = zip(*images.images(shard), strict=True)
        z = torch.from_numpy(np.stack([read_vector(file)[1] for file in files]))
        return {
            "keys": np.array(keys),
            "image": _as_float16(
                scale_per_encoder(z, space.encoder_dims), "the encoder of these embeddings"
            ),
        }

    return compute_missing(folder, images, spec, compute, "image embeddings")


def embed_texts(
    clip: ClipEnsemble, tokens: TokenEncoder, images: Dataset, folder: Path | UPath
) -> ArrayStore:
    """Embed every caption under the CLIP ensemble, and as tokens.

    Args:
        clip: The ensemble whose text towers embed the captions.
        tokens: The text encoder whose tokens the prior reads.
        images: The dataset with the captions.
        folder: Where the arrays are stored; shards that are there already are not computed again.

    Returns:
        One row a caption, its key being its image's, an image's captions in their order: "text"
        float16 [m, d], "tokens" float16 [m, T, w] and "mask" bool [m, T].

    Raises:
        CorgiError: an encoder made a value that is not finite or that float16 cannot hold.
    """
    spec = encoder_spec(clip) | {
        "text_encoder": tokens.digest,
        "text_width": tokens.width,
        "text_tokens": tokens.max_tokens,
    }
    if clip.space != clip.digest:
        spec["text_tower"] = clip.digest

    def compute(shard: str) -> dict[str, np.ndarray]:
        rows = images.rows(shard)
        by_image = zip(rows["key"], rows["captions"], strict=True)
        pairs = [(key, text) for key, texts in by_image for text in texts or []]
        captions = [text for _, text in pairs]
        vectors, mask = tokens.encode(captions)
        return {
            "keys": np.array([key for key, _ in pairs], dtype=str),
            "text": _as_float16(clip.encode_texts(captions), _named(clip)),
            "tokens": _as_float16(vectors, f"the text encoder {tokens.name!r}"),
            "mask": mask.numpy(),
        }

    return compute_missing(folder, images, spec, compute, "text embeddings")


def encoder_spec(clip: ClipEnsemble) -> dict[str, Any]:
    """Which encoders made an embedding; embeddings whose specs differ cannot be compared."""
    return _space_spec(clip.space, clip.names, clip.encoder_dims)


def _space_spec(encoder: str, names: Sequence[str], encoder_dims: Sequence[int]) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "names": list(names),
        "encoder_dims": list(encoder_dims),
        "width": sum(encoder_dims),
    }


def _squares(images: Dataset, shard: str, size: int) -> Iterator[Tensor]:
    batch: list[np.ndarray] = []
    for _, image in images.images(shard):
        batch.append(square(image, size))
        if len(batch) == _BATCH:
            yield torch.from_numpy(np.stack(batch))
            batch = []
    if batch:
        yield torch.from_numpy(np.stack(batch))


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
