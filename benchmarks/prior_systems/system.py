"""What the benchmark asks of a prior, whoever wrote it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

TEXT_DROPOUT = 0.1  # in training, for all systems, so that they can be guided


@dataclass(frozen=True)
class Case:
    """One thing to measure. All systems get the same; widths in coordinates, counts in units."""

    # "sampling", "training", or "learning": training until `seconds` are used up; "quality": such
    # seconds are the processor's, so that what else the machine does counts for nobody
    task: str
    dim: int  # d, of the CLIP embeddings
    batch: int  # captions
    text_tokens: int = 77
    text_width: int = 512  # of the text encodings, as they come from their encoder
    width: int = 512  # of the transformer
    layers: int = 6
    heads: int = 8
    steps: int = 64
    guidance: float = 2.0
    noise_samples: int = 16  # of (t, noise) per caption, for a system that can share the text
    precision: str = "fp32"  # or "bf16": autocast
    device: str = "cpu"
    learning_rate: float = 1e-3
    seconds: float = 60.0  # of training, in all
    held_out: int = 512  # pairs of caption and timestep
    stores: str | None = None  # a folder with `image_embeddings` and `text_embeddings`, or made
    images: str | None = None  # the stores' dataset, where its splits say what is held out


class Captions(NamedTuple):
    """n captions with their images.

    tokens [n, T, text_width], zero at padding, mask [n, T], text [n, d], image z_0 [n, d]; text
    and image have the norm √d.
    """

    tokens: Tensor
    mask: Tensor
    text: Tensor
    image: Tensor


class System(ABC):
    """A prior of the case's size, freshly initialised."""

    network: nn.Module  # on the case's device; all its parameters are trained
    noise_samples: int  # of (t, noise) per caption in one `loss`

    @abstractmethod
    def sample(self, captions: Captions, steps: int, guidance: float) -> Tensor:
        """Embeddings [n, d] by so many evaluations of the network, as the system's own pipeline
        does it; a guidance of 1 is none, and costs no unconditional evaluations."""

    @abstractmethod
    def loss(self, captions: Captions) -> Tensor:
        """The training loss [] under the linear schedule, at uniform random timesteps."""

    @abstractmethod
    def predict(self, captions: Captions, z_t: Tensor, t: Tensor) -> Tensor:
        """ẑ_0 [n, d] without guidance. z_t [n, d] of the scale that `image` has, t [n], long."""
