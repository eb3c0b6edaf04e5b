"""The settings of the decoders: what all have, and what each kind adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from corgi_core.presets.training import TrainingSettings

DECODERS = ("components", "stable_diffusion")


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """What every decoder is told. `kind` is its name, one of `DECODERS`."""

    kind: ClassVar[str]

    image_size: int  # pixels
    embedding_dropout: float  # probability of hiding the embedding, for guidance
    blurred: float  # share of the training embeddings that are blurred, as a prior's are …
    least_cosine: float  # … down to this cosine to the true one
    guidance: float
    sampling_steps: int
    training: TrainingSettings


@dataclass(frozen=True, kw_only=True)
class ComponentsSettings(DecoderSettings):
    """Diffusion over the pictures' principal components."""

    kind: ClassVar[str] = "components"

    components: int  # of the training pictures, kept
    width: int  # of the residual blocks
    vectors: int  # the embedding is projected to this many vectors, one for each residual block
    vector_width: int
    noise_shift: float  # of the cosine schedule's log SNR; negative is more noise


@dataclass(frozen=True, kw_only=True)
class StableDiffusionSettings(DecoderSettings):
    """Stable Diffusion 2, with the embedding in the place of the text."""

    kind: ClassVar[str] = "stable_diffusion"

    pretrained: str  # a hub id, or the folder of a diffusers pipeline (unet, vae, scheduler)
    fine_tuning: str = "lora"  # what learns beside the projection: "full", "lora" or "projection"
    lora_rank: int = 16
    lora_alpha: int = 16  # the adapters' output is scaled by alpha / rank
    # What guidance starts from: the embedding "mean" of the training images, a black image's
    # ("zero"), or the prior's for the empty caption ("prior"; until there is one, the mean).
    negative: str = "mean"
    checkpoint_activations: bool = field(default=False, compare=False)  # slower, in less memory
