"""The settings of the decoders: what all have, and what each kind adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from corgi_core.config.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """What every decoder is told. `kind` is its name, a key of `DECODER_SETTINGS`."""

    kind: ClassVar[str]

    image_size: int  # pixels
    cond_dropout: float  # probability of hiding the embedding, for guidance
    perturbed: float  # share of the training embeddings that are blurred, as a prior's are …
    min_cosine: float  # … down to this cosine to the true one
    guidance: float
    num_steps: int
    training: TrainingSettings


@dataclass(frozen=True, kw_only=True)
class PCASettings(DecoderSettings):
    """Diffusion over the pictures' principal components."""

    kind: ClassVar[str] = "pca"

    components: int  # of the training pictures, kept
    width: int  # of the residual blocks
    vectors: int  # the embedding is projected to this many vectors, one for each residual block
    vector_width: int
    noise_shift: float  # of the cosine schedule's log SNR; negative is more noise


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One stage of a cascade: the UNet that draws pictures of one size."""

    size: int  # pixels, a multiple of the stage's before and of 2^(levels − 1)
    channels: tuple[int, ...]  # at each level, from the full resolution down; multiples of 8
    layers: int  # residual blocks at each level
    attention_levels: int  # levels that attend, from the last up; 0 is convolutions alone
    noise_shift: float  # of the cosine schedule's log SNR; negative is more noise


@dataclass(frozen=True, kw_only=True)
class CascadeSettings(DecoderSettings):
    """Diffusion UNets, each conditioned on the smaller picture that the one before drew."""

    kind: ClassVar[str] = "cascade"

    stages: tuple[StageSettings, ...]  # the last one's size is the image_size
    vectors: int  # the embedding is projected to this many, for cross-attention
    vector_width: int
    prediction: str  # what the UNets predict: "v" or "noise"
    condition_noise: float  # most noise on the smaller picture in training, up to 1 …
    sampling_noise: float  # … and how much when drawing
    text_width: int | None = None  # of the captions' tokens, where they are read beside it
    text_dropout: float = 0.1  # probability of hiding the tokens alone
    tile: int = 384  # pixels; larger pictures are denoised in tiles of this size, for memory …
    overlap: int = 64  # … which overlap by so many


@dataclass(frozen=True, kw_only=True)
class GanSettings(DecoderSettings):
    """A StyleGAN2 that is told the embedding. It draws in one step, and cannot be guided."""

    kind: ClassVar[str] = "gan"

    cond_dropout: float = 0.0
    guidance: float = 1.0
    num_steps: int = 1

    latent_width: int
    channel_base: int  # there are channel_base / side channels at the resolution side × side …
    max_channels: int  # … but no more than this
    clip_weight: float  # of the contrastive loss by CLIP, for the generator …
    layout_weight: float  # of the squared error at 16 × 16 pixels, for the generator
    semantic_weight: float  # … and of that by the discriminator's features, for both
    r1_gamma: float  # γ of the gradient penalty …
    r1_interval: int = 16  # … which is taken every so many steps
    path_weight: float = 2.0  # of the path length penalty …
    path_interval: int = 4  # … which is taken every so many steps
    augment_target: float = 0.6  # mean sign of the scores of real pictures, by augmenting them …
    augment_pictures: int = 500_000  # … with a probability that needs so many to go from 0 to 1


@dataclass(frozen=True, kw_only=True)
class LafiteSettings(GanSettings):
    """The GAN trained on pseudo text embeddings, without language: the paper's baseline."""

    kind: ClassVar[str] = "lafite"

    perturbed: float = 0.0  # the perturbation stands in its place
    min_cosine: float = 1.0
    perturbation: float = 0.1  # ξ, the pseudo text's distance from the image, in its norm


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


DECODER_SETTINGS: dict[str, type[DecoderSettings]] = {
    kind.kind: kind
    for kind in (PCASettings, CascadeSettings, GanSettings, LafiteSettings, StableDiffusionSettings)
}
"""Kind → class of its settings; `corgi_core.decoders.registry.register` adds to it."""
