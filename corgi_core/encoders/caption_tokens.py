"""The tokens of stored captions: read from the disk, or made by the text encoder when needed."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from corgi_core.config import TextFeatures
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.ragged import RaggedArray
from corgi_core.encoders.fitting import check_model_fits
from corgi_core.encoders.tokens import (
    PackedTokens,
    TokenEncoder,
    TokenisedCaptions,
    packed,
    ragged,
    unpacked,
)
from corgi_core.errors import CorgiError

Batch: TypeAlias = PackedTokens | TokenisedCaptions
FEATURES = "text_features"  # in the spec of text embeddings: cached or online
ENCODER = "text_encoder_name"  # there: the text encoder's name
ARRAYS: dict[TextFeatures, str] = {"cached": "tokens", "online": "captions"}
_CHUNK = 2048  # captions whose tokens are padded at once


class CaptionTokens:
    """Captions of a text store → tokens.

    Where tokens are cached, the store's ragged array "tokens" has them. Where they are made online,
    it has "captions" instead, UTF-8, and the frozen text encoder reads those.

    Attributes:
        array: The name of that ragged array.
    """

    def __init__(self, texts: ArrayStore) -> None:
        self._spec = texts.spec
        features = self._spec.get(FEATURES, "cached")
        self.array = ARRAYS[features]
        self._online = features == "online"

    def prepare(self) -> None:
        """Load the text encoder where it is needed; threads may then call `batch`.

        Raises CorgiError where it is absent here, or has other weights than the store says.
        """
        if self._online:
            self._encoder().tokenise([""])

    def batch(self, rows: RaggedArray) -> Batch:
        """Rows of the ragged array as tensors on the CPU, for `tokens_of`.

        An empty row has no token: it stands for no caption.
        """
        if not self._online:
            return packed(rows)
        there = np.flatnonzero(rows.lengths)
        found = self._encoder().tokenise(texts_of(rows.take(there)))
        at = torch.from_numpy(there)
        mask = torch.zeros(len(rows), found.mask.shape[1], dtype=torch.bool)
        mask[at] = found.mask
        return TokenisedCaptions(mask, tuple(c._replace(rows=at[c.rows]) for c in found.chunks))

    def tokens_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens float32 [n, T, w], zero at padding, and mask bool [n, T]: on the batch's device.

        A text encoder computes there.
        """
        if isinstance(batch, PackedTokens):
            return unpacked(batch)
        return self._encoder(batch.mask.device).read(batch)

    def ragged(self, rows: RaggedArray, device: torch.device | str = "cpu") -> RaggedArray:
        """Rows of the ragged array as ragged tokens, float16, made on a device if need be."""
        if not self._online:
            return rows
        encoder, texts = self._encoder(torch.device(device)), texts_of(rows)
        chunks = [texts[i : i + _CHUNK] for i in range(0, max(1, len(texts)), _CHUNK)]
        parts = [ragged(*encoder.encode(chunk)) for chunk in chunks]
        found = RaggedArray.concatenated(parts)
        return RaggedArray(found.values.astype(np.float16), found.offsets)

    def _encoder(self, device: torch.device | None = None) -> TokenEncoder:
        """The text encoder on a device, or where it is."""
        named = self._spec[ENCODER], self._spec["text_tokens"], self._spec["text_encoder"]
        encoder = _encoder_of(*named)
        if device is None or device == encoder.device:
            return encoder
        if device.type == "cpu":  # a GPU has rounded its weights
            _encoder_of.cache_clear()
            return _encoder_of(*named)
        return _on_gpu(encoder, device)


def stored_texts(captions: list[str]) -> RaggedArray:
    """Captions [n] as a store has them: a row of UTF-8 bytes each."""
    each = [caption.encode() for caption in captions]
    values = np.frombuffer(b"".join(each), np.uint8)
    return RaggedArray.of_lengths(values, np.array([len(text) for text in each], np.int64))


def texts_of(rows: RaggedArray) -> list[str]:
    """What `stored_texts` stored."""
    content, ends = rows.values.tobytes(), rows.offsets.tolist()
    return [content[a:b].decode() for a, b in pairwise(ends)]


@lru_cache(maxsize=1)
def _encoder_of(name: str, max_tokens: int, digest: str) -> TokenEncoder:
    """One text encoder a process, however many tasks read captions."""
    try:
        encoder = TokenEncoder.load(name, max_tokens)
    except CorgiError as error:
        raise CorgiError(
            f"tokens are made while training (text_features: online), but {error.problem}",
            f"{error.remedy}; or store the tokens, by --set text_features=cached",
        ) from error
    if encoder.digest != digest:
        raise CorgiError(
            f"the text encoder {name!r} has other weights here than when the captions were "
            f"embedded ({encoder.digest}, not {digest})",
            "bring those weights back, or materialise text_embeddings again",
        )
    return encoder


def products_in_bfloat16(encoder: nn.Module) -> nn.Module:
    """The encoder itself, the weights of whose products are in bfloat16 now.

    That is what autocast makes of them for every product, in half the memory.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return encoder


def _on_gpu(encoder: TokenEncoder, device: torch.device) -> TokenEncoder:
    """The encoder on a GPU; if that has bfloat16, with the weights of products in bfloat16."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        products_in_bfloat16(encoder)
    check_model_fits(encoder, encoder.name, device)
    return encoder.to(device)
