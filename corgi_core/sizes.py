"""Parameters and memory of a preset's models, found without making any of their weights.

Networks are built on torch's meta device, so a cluster's models are sized on a laptop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from corgi_core.config import (
    CascadeSettings,
    DecoderSettings,
    EncoderSettings,
    GanSettings,
    PCASettings,
    Preset,
    StableDiffusionSettings,
    clusters_of,
)
from corgi_core.errors import CorgiError

FLOAT32 = 4  # bytes
# Of every trained parameter: its weight, gradient, two moments of AdamW and moving average.
COPIES_IN_TRAINING = 5


@dataclass(frozen=True)
class ModelSize:
    """How large one model is.

    Attributes:
        model: its name, "prior" or "decoder gan".
        parameters: their number; None where it is not known before the data or weights are there.
        trained: how many of the parameters learn.
        remark: why the numbers are not known, or what they leave out.
    """

    model: str
    parameters: int | None = None
    trained: int = 0
    remark: str = ""

    @property
    def weights(self) -> int | None:
        """Bytes of the parameters in float32."""
        return None if self.parameters is None else FLOAT32 * self.parameters

    @property
    def training(self) -> int | None:
        """Bytes in training: weights, gradients, optimiser and average, without activations."""
        if self.parameters is None or not self.trained:
            return None
        return FLOAT32 * (self.parameters + (COPIES_IN_TRAINING - 1) * self.trained)


def model_sizes(preset: Preset) -> list[ModelSize]:
    """The sizes of the text encoder, CLIP encoders, prior and decoders of a preset.

    Raises:
        CorgiError: settings that no model can be built from.
    """
    text_width, text = _text_encoder(preset.encoders)
    widths, clips = _clip_encoders(preset)
    return [text, *clips, _prior(preset, text_width, widths), *_decoders(preset, widths)]


def _sized(name: str, network: nn.Module, *, trained: bool = True, remark: str = "") -> ModelSize:
    parameters = sum(each.numel() for each in network.parameters())
    learning = sum(each.numel() for each in network.parameters() if each.requires_grad)
    return ModelSize(name, parameters, learning if trained else 0, remark)


def _text_encoder(settings: EncoderSettings) -> tuple[int | None, ModelSize]:
    """(width of its tokens, size); None where its configuration is not on this machine."""
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    from corgi_core.encoders.tokens import transformers_source

    name = f"text encoder {settings.text}"
    try:
        config = AutoConfig.from_pretrained(transformers_source(settings.text))
    except OSError:
        return None, ModelSize(name, remark="its configuration is not on this machine")
    with torch.device("meta"):
        if config.model_type in ("t5", "mt5", "umt5"):
            model: nn.Module = T5EncoderModel(config)
        else:
            auto: Any = AutoModel  # without annotations
            model = auto.from_config(config)
    return int(config.hidden_size), _sized(name, model, trained=False)


def _clip_encoders(preset: Preset) -> tuple[list[int | None], list[ModelSize]]:
    """(widths of the embeddings, sizes) of the encoders."""
    if not preset.decoders:
        remark = "the data's embeddings decide its width"
        return [None], [ModelSize("CLIP text towers", remark=remark)]
    if preset.encoders.training is not None:
        return [preset.encoders.width], [_trained_clip(preset.encoders)]
    found = [_named_clip(name) for name in preset.encoders.clip]
    return [width for width, _ in found], [size for _, size in found]


def _trained_clip(settings: EncoderSettings) -> ModelSize:
    from corgi_core.encoders.train_clip import DualEncoder, untrained_clip

    with torch.device("meta"):
        model = DualEncoder(untrained_clip(settings, pretrained_text=False))
    return _sized("CLIP, trained", model, remark="beside the text encoder")


def _named_clip(name: str) -> tuple[int | None, ModelSize]:
    import open_clip

    from corgi_core.encoders.clip_text import read_ensemble
    from corgi_core.encoders.open_clip_model import pretrained_architecture

    title = f"CLIP {name}"
    if Path(name).is_dir():
        try:
            width = sum(read_ensemble(Path(name))["encoder_dims"])
        except CorgiError:
            width = None
        return width, ModelSize(title, remark="of the folder's weights")
    if name.startswith("hf-hub:"):
        return None, ModelSize(title, remark="its configuration is not on this machine")
    architecture, _, tag = name.partition("/")
    config = pretrained_architecture(architecture, tag)
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    family = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        model = family(**config)
    return int(config["embed_dim"]), _sized(title, model, trained=False)


def _prior(preset: Preset, text_width: int | None, widths: list[int | None]) -> ModelSize:
    from corgi_core.prior.network import PriorNetwork, PriorShape

    if text_width is None or None in widths:
        return ModelSize("prior", remark="the width of its embeddings is not known here")
    gaussians = max(clusters_of(variant) or 1 for variant in preset.variants)
    shape = PriorShape(
        embedding_width=sum(width or 0 for width in widths), text_width=text_width,
        text_tokens=preset.encoders.text_tokens, gaussians=gaussians,
        width=preset.prior.width, layers=preset.prior.layers, heads=preset.prior.heads,
    )  # fmt: skip
    with torch.device("meta"):
        return _sized("prior", PriorNetwork(shape), remark=f"with {gaussians:,} Gaussians")


def _decoders(preset: Preset, widths: list[int | None]) -> Iterator[ModelSize]:
    for settings in preset.decoders:
        name = f"decoder {settings.kind}"
        if None in widths:
            yield ModelSize(name, remark="the width of its embeddings is not known here")
            continue
        with torch.device("meta"):
            network = _decoder(settings, sum(width or 0 for width in widths))
        if network is None:
            yield ModelSize(name, remark="its pipeline is not on this machine")
        else:
            yield _sized(name, network)


def _decoder(settings: DecoderSettings, width: int) -> nn.Module | None:
    """The network of a decoder for embeddings of that width; None where it is not known."""
    if isinstance(settings, PCASettings):
        from corgi_core.decoders.pca.network import PCANetwork, PCAShape

        return PCANetwork(
            PCAShape(
                width, settings.image_size, settings.components, settings.width, settings.vectors,
                settings.vector_width,
            )
        )  # fmt: skip
    if isinstance(settings, CascadeSettings):
        from corgi_core.decoders.cascade.checks import check_cascade
        from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape

        check_cascade(settings)
        return CascadeNetwork(CascadeShape.of(settings, width))
    if isinstance(settings, GanSettings):
        from corgi_core.decoders.gan.generator import GanShape
        from corgi_core.decoders.gan.network import GanNetwork

        shape = GanShape(
            width, settings.image_size, settings.latent_width, settings.channel_base,
            settings.max_channels,
        )  # fmt: skip
        return GanNetwork(shape, settings.augment_target, settings.augment_pictures)
    if isinstance(settings, StableDiffusionSettings):
        return _stable_diffusion(Path(settings.pretrained), settings)
    return None


def _stable_diffusion(folder: Path, settings: StableDiffusionSettings) -> nn.Module | None:
    """The UNet and VAE of a local pipeline; None for a hub id."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if not (folder / "unet" / "config.json").is_file():
        return None

    def configured(part: str) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((folder / part / "config.json").read_text("utf-8"))
        return config

    unet_class: Any = UNet2DConditionModel  # without annotations
    vae_class: Any = AutoencoderKL
    unet = unet_class.from_config(configured("unet"))
    unet.requires_grad_(settings.fine_tuning == "full")
    vae = vae_class.from_config(configured("vae")).requires_grad_(False)
    return nn.ModuleList([unet, vae])
