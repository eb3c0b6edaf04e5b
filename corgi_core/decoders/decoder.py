"""What every decoder is: CLIP image embeddings in, pictures out, one model folder.

A kind of decoder says how its network is built and how it draws a batch. What all share stands
here: whose embeddings it takes, what is refused, batches, sizes, saving and loading.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from upath import UPath

from corgi_core.config import DecoderSettings
from corgi_core.errors import CorgiError
from corgi_core.io.model_folder import digest_of_tensors, write_model_folder
from corgi_core.progress import report

PICTURES_AT_ONCE = 256
LARGEST_SIZE = 4096


class Text(NamedTuple):
    """Captions beside embeddings: tokens [n, T, w] and which of them are there, mask [n, T]."""

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Drawing:
    """How a batch is drawn: picture i of it from the noise of (seed, first + i)."""

    seed: int
    first: int
    steps: int
    guidance: float


class Decoder(ABC):
    """Turns CLIP image embeddings into pictures.

    `encoders` is the embedding store's `spec`: the CLIP encoders that the decoder belongs to. The
    network has a `shape`, a dataclass whose `embedding_width` is d.
    """

    most_steps: ClassVar[int] = 1  # of sampling; one, where a picture is one pass
    takes: ClassVar[Literal["image", "text"]] = "image"  # whose CLIP embedding a caption's is

    def __init__(
        self,
        network: nn.Module,
        settings: DecoderSettings,
        encoders: Mapping[str, Any],
        card: Mapping[str, Any],
    ) -> None:
        self.network = network
        self.settings = settings
        self.encoders = dict(encoders)
        self.card = dict(card)

    @classmethod
    @abstractmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        """The network of a saved shape, untrained."""

    @abstractmethod
    def draw(self, z: Tensor, text: Text | None, drawing: Drawing) -> Tensor:
        """Pictures [n, 3, s, s] in [0, 1], of the settings' size, of embeddings z [n, d]."""

    @property
    def kind(self) -> str:
        """The name that the decoder is registered under."""
        return self.settings.kind

    @property
    def shape(self) -> dict[str, Any]:
        """All that decides the network's tensors."""
        return asdict(cast(Any, self.network.shape))

    @property
    def reads_text(self) -> bool:
        """Whether captions can stand beside the embeddings."""
        return False

    @property
    def width(self) -> int:
        """d, of the embeddings that this decoder takes."""
        return int(self.shape["embedding_width"])

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """d_b of the CLIP encoders, which sum to the width."""
        return tuple(self.encoders["encoder_dims"])

    @property
    def wants_negative(self) -> bool:
        """Whether guidance is to start from a prior's embedding of the empty caption."""
        return False

    def with_negative(self, embedding: Tensor) -> Self:
        """This decoder, with guidance that starts from an embedding [d]."""
        raise NotImplementedError(f"a {self.kind} decoder is not guided by an embedding")

    @torch.no_grad()
    def decode(
        self,
        embeddings: Tensor,
        text: Text | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        size: int | None = None,
    ) -> Tensor:
        """Pictures, float32 [n, 3, size, size] in [0, 1], of embeddings [n, d].

        `text` are the captions' tokens, for decoders that read text. `steps` and `guidance` default
        to the model's settings (guidance 1 is none), `size` to its own; another one is
        interpolated. Picture i depends on (seed, i), its embedding and its text only. Raises
        CorgiError for a wrong width, for text that is not read, and for impossible steps, guidance
        or size.
        """
        steps = self.settings.num_steps if steps is None else steps
        guidance = self.settings.guidance if guidance is None else guidance
        size = self.settings.image_size if size is None else size
        self._check(embeddings, text, steps, guidance, size)
        chunks = [embeddings.new_empty((0, 3, size, size), dtype=torch.float32)]
        for first in range(0, len(embeddings), PICTURES_AT_ONCE):
            rows = slice(first, first + PICTURES_AT_ONCE)
            z = embeddings[rows].float()
            words = None if text is None else Text(text.tokens[rows].float(), text.mask[rows])
            pictures = self.draw(z, words, Drawing(seed, first, steps, guidance))
            chunks.append(_resized(pictures.float().clamp(0, 1), size))
            report("decoding", first + len(z), len(embeddings))
        return torch.cat(chunks)

    def _check(
        self, embeddings: Tensor, text: Text | None, steps: int, guidance: float, size: int
    ) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise CorgiError(
                f"the embeddings have shape {list(embeddings.shape)}, "
                f"this decoder needs [n, {self.width}]",
                "embed with the CLIP encoders that the decoder was trained for",
            )
        if text is not None and not self.reads_text:
            raise CorgiError(f"a {self.kind} decoder reads no text", "give it embeddings alone")
        if text is not None and not len(text.tokens) == len(text.mask) == len(embeddings):
            raise CorgiError(
                f"{len(text.tokens)} captions do not go with {len(embeddings)} embeddings",
                "give every embedding its caption",
            )
        if not 1 <= steps <= self.most_steps:
            raise CorgiError(
                f"{steps} decoder steps are impossible",
                f"give 1 to {self.most_steps}" if self.most_steps > 1 else "it draws in one",
            )
        if not math.isfinite(guidance):
            raise CorgiError(f"guidance {guidance} is not finite", "give a number such as 1 or 2")
        if guidance != 1 and self.settings.cond_dropout == 0:
            raise CorgiError(
                "this decoder was trained without embedding dropout, so it cannot be guided",
                "use guidance 1, or train with cond_dropout above 0",
            )
        if not 1 <= size <= LARGEST_SIZE:
            raise CorgiError(
                f"pictures of {size} pixels are impossible", f"give 1 to {LARGEST_SIZE}"
            )

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device, in place."""
        self.network.to(device)
        return self

    def save(self, folder: Path | UPath) -> None:
        """Write the model folder."""
        config = {
            "decoder": self.kind,
            "shape": self.shape,
            "settings": asdict(self.settings),
            "encoders": self.encoders,
        }
        write_model_folder(folder, "decoder", config, self.network.state_dict(), self.card)

    @property
    def digest(self) -> str:
        return digest_of_tensors(self.network.state_dict())


def _resized(pictures: Tensor, size: int) -> Tensor:
    if pictures.shape[-1] == size:
        return pictures
    resized = F.interpolate(pictures, size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)
