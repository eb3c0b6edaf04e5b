"""What all decoders share: from CLIP image embeddings to images, and one model folder.

A kind of decoder says how its network is built and how it samples a batch of images. The checks of
the inputs, batches, sizes and saving are here. `registry.load_decoder` loads all kinds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from upath import UPath

from corgi_core.batches import batches
from corgi_core.config import DecoderSettings
from corgi_core.devices import device_of, inference
from corgi_core.errors import CorgiError
from corgi_core.io.model_folder import digest_of_model, write_model_folder
from corgi_core.out_of_memory import out_of_memory_explained
from corgi_core.progress import report

KIND = "decoder"  # of a model folder
BATCH_SIZE = 256  # images that are sampled at once, at most, where memory is not measured …
BATCH_PIXELS = 2**22  # … and their pixels; one image at least
MAX_SIZE = 4096


class TextCond(NamedTuple):
    """Captions as a condition beside embeddings.

    tokens [n, T, w] are the text encoder's, and attn_mask [n, T] is true where there is a token.
    """

    tokens: Tensor
    attn_mask: Tensor


@dataclass(frozen=True)
class SampleOptions:
    """How a batch of images is sampled: image i of it from the noise of (seed, sample_ids[i])."""

    seed: int
    sample_ids: Sequence[int]
    num_steps: int
    guidance: float


class Decoder(ABC):
    """Decodes CLIP image embeddings to images.

    The network has a `shape`: a dataclass of all that it is built from, whose `embedding_width` is
    d. `encoders` is the `spec` of the embeddings that the decoder was trained on: the CLIP encoders
    that it belongs to. `precision` is that of decoding on a GPU.
    """

    precision: str = "auto"

    input_kind: ClassVar[Literal["image", "text"]] = "image"
    """Whose CLIP embedding is decoded for a caption: an image's, by a prior, or the text's."""

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
        """The untrained network of a saved shape."""

    @abstractmethod
    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        """A batch of images; called without gradients, after the inputs were checked.

        Args:
            z: Embeddings [n, d], float32.
            text: The captions, or None. Decoders with `reads_text` False never get them.
            options: Seed, steps and guidance.

        Returns:
            Images [n, 3, s, s] in [0, 1], of the settings' image_size s.
        """

    @property
    def kind(self) -> str:
        """The name that the decoder is registered under."""
        return self.settings.kind

    @property
    def max_steps(self) -> int:
        """The most sampling steps: 1 if an image is one forward pass."""
        return 1

    @property
    def shape(self) -> dict[str, Any]:
        """All that decides the network's tensors."""
        return asdict(cast(Any, self.network.shape))

    @property
    def reads_text(self) -> bool:
        """Whether captions can be a condition beside the embeddings."""
        return False

    @property
    def width(self) -> int:
        """The width d of the embeddings."""
        return int(self.shape["embedding_width"])

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """d_b of the CLIP encoders, which sum to the width."""
        return tuple(self.encoders["encoder_dims"])

    @property
    def batch_pixels(self) -> int:
        """The pixels of images that are sampled at once, where a GPU has no memory for more."""
        return BATCH_PIXELS

    @property
    def less_memory(self) -> str:
        """What a person can do where there is no memory to sample a batch."""
        return "decode fewer images at once, end what else uses that memory, or decode on the CPU"

    @property
    def needs_negative(self) -> bool:
        """Whether guidance should start from a prior's embedding of the empty caption."""
        return False

    def with_negative(self, embedding: Tensor) -> Self:
        """This decoder, with guidance that starts from an embedding [d]."""
        raise NotImplementedError(f"a {self.kind} decoder is not guided by an embedding")

    @torch.no_grad()
    def decode(
        self,
        embeddings: Tensor,
        text: TextCond | None = None,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        size: int | None = None,
        sample_ids: Sequence[int] | None = None,
    ) -> Tensor:
        """Decode embeddings to images.

        Image i depends on (seed, sample_ids[i]), its embedding and its text.

        Args:
            embeddings: CLIP embeddings [n, d] of the decoder's own encoders.
            text: The captions, for decoders that read text.
            num_steps: Sampling steps; by default, the settings'.
            guidance: Scale of classifier-free guidance, 1 is none; by default, the settings'.
            seed: Of the noise.
            size: Pixels to a side; by default, the settings' image_size. Other sizes are resampled.
            sample_ids: Which of the seed's noise each image starts from; by default 0 … n − 1.

        Returns:
            Images [n, 3, size, size], float32 in [0, 1].

        Raises:
            CorgiError: If the width is wrong, text is not read, an option is impossible, or memory
                runs out.
        """
        num_steps = self.settings.num_steps if num_steps is None else num_steps
        guidance = self.settings.guidance if guidance is None else guidance
        size = self.settings.image_size if size is None else size
        sample_ids = range(len(embeddings)) if sample_ids is None else sample_ids
        self._check_inputs(embeddings, text)
        self._check_options(num_steps, guidance, size)
        device = self.device
        usual = max(1, min(BATCH_SIZE, self.batch_pixels // self.settings.image_size**2))
        decoded = [torch.empty((0, 3, size, size), device=device)]
        for rows in batches(len(embeddings), device, usual):
            z, cond = embeddings[rows].to(device).float(), None
            if text is not None:
                tokens, attn_mask = (part[rows].to(device) for part in text)
                cond = TextCond(tokens.float(), attn_mask)
            options = SampleOptions(seed, sample_ids[rows], num_steps, guidance)
            doing = (
                f"decoding {len(z)} images of {self.settings.image_size} pixels by a {self.kind} "
                "decoder"
            )
            needed = out_of_memory_explained(doing, self.less_memory)
            with inference(device, self.precision), needed:
                images = self.sample(z, cond, options)
            decoded.append(_resized(images.float().clamp(0, 1), size))
            report("decoding", rows.stop, len(embeddings))
        return torch.cat(decoded)

    def _check_inputs(self, embeddings: Tensor, text: TextCond | None) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise CorgiError(
                f"the embeddings have shape {list(embeddings.shape)}, "
                f"this decoder needs [n, {self.width}]",
                "embed with the CLIP encoders that the decoder was trained for",
            )
        if text is not None and not self.reads_text:
            raise CorgiError(f"a {self.kind} decoder reads no text", "give it embeddings alone")
        if text is not None and not len(text.tokens) == len(text.attn_mask) == len(embeddings):
            raise CorgiError(
                f"there are {len(text.tokens)} captions for {len(embeddings)} embeddings",
                "give every embedding its caption",
            )

    def _check_options(self, num_steps: int, guidance: float, size: int) -> None:
        if not 1 <= num_steps <= self.max_steps:
            raise CorgiError(
                f"{num_steps} decoder steps are impossible",
                f"choose between 1 and {self.max_steps} steps"
                if self.max_steps > 1
                else f"choose 1 step, a {self.kind} decoder has no more",
            )
        if not math.isfinite(guidance):
            raise CorgiError(f"guidance {guidance} is not finite", "give a number such as 1 or 2")
        if guidance != 1 and self.settings.cond_dropout == 0:
            raise CorgiError(
                "this decoder was trained without dropout of the embedding and cannot be guided",
                "use guidance 1, or train with cond_dropout above 0",
            )
        if not 1 <= size <= MAX_SIZE:
            raise CorgiError(
                f"images of {size} pixels to a side are impossible",
                f"choose between 1 and {MAX_SIZE} pixels",
            )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.network)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device, in place."""
        self.network.to(device)
        return self

    def save(self, folder: Path | UPath) -> None:
        """Write the model folder."""
        write_model_folder(folder, KIND, self._config(), self.network.state_dict(), self.card)

    def _config(self) -> dict[str, Any]:
        return {
            "decoder": self.kind,
            "shape": self.shape,
            "settings": asdict(self.settings),
            "encoders": self.encoders,
        }

    @property
    def digest(self) -> str:
        """Names what is decoded: the weights and the settings of sampling."""
        return digest_of_model(KIND, self._config(), self.network.state_dict())


def signed(pixels: Tensor) -> Tensor:
    """Pixel values 0 … 255 → −1 … 1, float32."""
    return pixels.float() / 127.5 - 1


def unsigned(images: Tensor) -> Tensor:
    """Images in −1 … 1 → 0 … 1; what is outside is clipped."""
    return (images.float().clamp(-1, 1) + 1) / 2


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)
