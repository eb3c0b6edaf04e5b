"""The models of a preset: how to build each without weights, and how a step of it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.config import (
    LANGUAGE_FREE,
    CascadeSettings,
    DecoderSettings,
    EncoderSettings,
    GanSettings,
    PCASettings,
    Preset,
    StableDiffusionSettings,
    TrainingSettings,
    clusters_of,
)
from corgi_core.errors import CorgiError
from corgi_core.sizes.captions_like_coco import padded_tokens
from corgi_core.sizes.published import pipeline_configs, text_encoder_config


@dataclass(frozen=True)
class SizedModel:
    """One model of a preset.

    Attributes:
        name: "prior", or "decoder gan".
        build: Makes the network; None where it is not known before data or weights are there.
        run: Calls the network on n samples, made by torch.zeros and the like; returns its output.
        training: How it is trained; None for a frozen encoder.
        trainings: How many of it `corgi run` trains; 0 for what is made by name.
        decoder: The settings of a decoder.
        stage: The number of a cascade's stage, from 0.
        beside: The model in whose training it computes.
        remark: Why it is not known, or what its numbers leave out.
    """

    name: str
    build: Callable[[], nn.Module] | None = None
    run: Callable[[Any, int], Tensor] | None = None
    training: TrainingSettings | None = None
    trainings: int = 0
    decoder: DecoderSettings | None = None
    stage: int | None = None
    beside: str = ""
    remark: str = ""


def models_of(preset: Preset) -> list[SizedModel]:
    """The text encoder, CLIP encoders, prior and decoders of a preset.

    Where the text encoder reads captions in the prior's training, it is there once more.

    Raises:
        CorgiError: settings that no model can be built from.
    """
    text_width, text = _text_encoder(preset.encoders)
    widths, clips = _clip_encoders(preset)
    width = None if None in widths else sum(each or 0 for each in widths)
    prior = _prior(preset, text_width, width)
    return [text, *clips, prior, *_online(preset, prior), *_decoders(preset, width)]


def widths_of(preset: Preset) -> tuple[int | None, list[int | None]]:
    """The width of the text encoder's tokens, and of each CLIP encoder's embeddings."""
    return _text_encoder(preset.encoders)[0], _clip_encoders(preset)[0]


def microbatch_of(training: TrainingSettings, workers: int) -> int:
    """The samples that each of so many workers computes at once, one at least."""
    return max(1, training.batch_size // (workers * training.accumulation))


def _text_encoder(settings: EncoderSettings) -> tuple[int | None, SizedModel]:
    """(width of its tokens, the model); None where its configuration is not on this machine."""
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    from corgi_core.encoders.tokens import transformers_source

    name = f"text encoder {settings.text}"
    config: Any = text_encoder_config(settings.text)
    if config is None:
        try:
            config = AutoConfig.from_pretrained(transformers_source(settings.text))
        except OSError:
            return None, SizedModel(name, remark="its configuration is not on this machine")

    def build() -> nn.Module:
        if config.model_type in ("t5", "mt5", "umt5"):
            return T5EncoderModel(config).requires_grad_(False)
        auto: Any = AutoModel  # without annotations
        model: nn.Module = auto.from_config(config)
        return model.requires_grad_(False)

    def run(network: Any, captions: int) -> Tensor:
        ids = torch.ones(captions, settings.text_tokens, dtype=torch.long)
        hidden: Tensor = network(input_ids=ids, attention_mask=ids).last_hidden_state
        return hidden

    return int(config.hidden_size), SizedModel(name, build, run, remark="a sample is a caption")


def _clip_encoders(preset: Preset) -> tuple[list[int | None], list[SizedModel]]:
    """(widths of the embeddings, encoders)."""
    if not preset.decoders:
        remark = "the data's embeddings decide its width"
        return [None], [SizedModel("CLIP text towers", remark=remark)]
    if preset.encoders.training is not None:
        return [preset.encoders.width], [_trained_clip(preset.encoders)]
    found = [_named_clip(name) for name in preset.encoders.clip]
    return [width for width, _ in found], [model for _, model in found]


def _trained_clip(settings: EncoderSettings) -> SizedModel:
    from corgi_core.encoders.train_clip import DualEncoder, untrained_clip

    def build() -> nn.Module:
        return DualEncoder(untrained_clip(settings, pretrained_text=False))

    def run(network: Any, pairs: int) -> Tensor:
        side = settings.image_size
        pooled = torch.zeros(pairs, network.projection[0].in_features)
        image, text, scale = network(torch.zeros(pairs, 3, side, side), pooled)
        product: Tensor = scale * image @ text.T
        return product

    return SizedModel(
        "CLIP, trained", build, run, settings.training, trainings=1,
        remark="beside the text encoder",
    )  # fmt: skip


def _named_clip(name: str) -> tuple[int | None, SizedModel]:
    import open_clip

    from corgi_core.encoders.clip_text import read_ensemble
    from corgi_core.encoders.open_clip_model import pretrained_architecture

    title = f"CLIP {name}"
    if Path(name).is_dir():
        try:
            width = sum(read_ensemble(Path(name))["encoder_dims"])
        except CorgiError:
            width = None
        return width, SizedModel(title, remark="of the folder's weights")
    if name.startswith("hf-hub:"):
        return None, SizedModel(title, remark="its configuration is not on this machine")
    architecture, _, tag = name.partition("/")
    config = pretrained_architecture(architecture, tag)
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    family = open_clip.CustomTextCLIP if custom else open_clip.CLIP

    def build() -> nn.Module:
        model: nn.Module = family(**config).requires_grad_(False)
        return model

    def run(network: Any, pairs: int) -> Tensor:
        side = config["vision_cfg"]["image_size"]
        images = network.encode_image(torch.zeros(pairs, 3, side, side))
        length = config["text_cfg"].get("context_length", 77)
        texts = network.encode_text(torch.ones(pairs, length, dtype=torch.long))
        return torch.cat([images, texts])

    remark = "a sample is an image and a caption"
    return int(config["embed_dim"]), SizedModel(title, build, run, remark=remark)


def _prior(preset: Preset, text_width: int | None, width: int | None) -> SizedModel:
    from corgi_core.prior.network import PriorNetwork, PriorShape

    if text_width is None or width is None:
        return SizedModel("prior", remark="the width of its embeddings is not known here")
    settings, tokens = preset.prior, preset.encoders.text_tokens
    gaussians = max(clusters_of(variant) or 1 for variant in preset.variants)
    shape = PriorShape(
        embedding_width=width, text_width=text_width, text_tokens=tokens, gaussians=gaussians,
        width=settings.width, layers=settings.layers, heads=settings.heads,
    )  # fmt: skip

    def build() -> nn.Module:
        return PriorNetwork(shape, settings.checkpoint_activations)

    def run(network: Any, captions: int) -> Tensor:
        samples = settings.noise_samples
        output: Tensor = network(
            torch.zeros(captions, tokens, text_width),
            torch.ones(captions, tokens, dtype=torch.bool),
            torch.zeros(captions, width),
            torch.ones(captions, dtype=torch.bool),
            torch.zeros(captions, samples, width),
            torch.zeros(captions, samples, dtype=torch.long),
            torch.zeros(captions, dtype=torch.long),
        )
        return output

    subsets = sum(subset != LANGUAGE_FREE for subset in preset.caption_subsets)
    return SizedModel(
        "prior", build, run, settings.training, trainings=len(preset.variants) * subsets,
        remark=f"with {gaussians:,} Gaussians, and captions of {tokens} tokens",
    )  # fmt: skip


def _online(preset: Preset, prior: SizedModel) -> Iterator[SizedModel]:
    """The text encoder as it reads the captions of a prior's batch, if tokens are not stored."""
    from corgi_core.encoders.caption_tokens import products_in_bfloat16
    from corgi_core.encoders.tokens import CAPTIONS_AT_ONCE

    training = prior.training
    if preset.text_features == "cached" or training is None:
        return
    together = min(CAPTIONS_AT_ONCE, microbatch_of(training, max(1, preset.workers)))
    tokens = min(padded_tokens(together), preset.encoders.text_tokens)
    _, text = _text_encoder(replace(preset.encoders, text_tokens=tokens))
    if text.build is None or text.run is None:
        return
    build, read = text.build, text.run

    def run(network: Any, captions: int) -> Tensor:
        sizes = (min(together, captions - i) for i in range(0, captions, together))
        return torch.cat([read(network, size) for size in sizes])

    yield SizedModel(
        f"{prior.name}'s text encoder", lambda: products_in_bfloat16(build()), run,
        replace(training, precision="bf16"), prior.trainings, beside=prior.name,
        remark=f"reads captions in the {prior.name}'s training (text_features: online), padded to "
        f"{tokens} tokens, as the longest of {together} like COCO's has; its products are in "
        "bfloat16",
    )  # fmt: skip


def _decoders(preset: Preset, width: int | None) -> Iterator[SizedModel]:
    for settings in preset.decoders:
        for model in _decoder(settings, width):
            trainings = int(settings is preset.decoder)
            yield replace(model, decoder=settings, trainings=trainings)


def _decoder(settings: DecoderSettings, width: int | None) -> Iterator[SizedModel]:
    """The networks of a decoder for embeddings of that width."""
    name = f"decoder {settings.kind}"
    if width is None:
        yield SizedModel(name, remark="the width of its embeddings is not known here")
    elif isinstance(settings, PCASettings):
        yield _pca(name, settings, width)
    elif isinstance(settings, CascadeSettings):
        yield from _cascade(name, settings, width)
    elif isinstance(settings, GanSettings):
        yield _gan(name, settings, width)
    elif isinstance(settings, StableDiffusionSettings):
        yield _stable_diffusion(name, settings, width)
    else:
        yield SizedModel(name, remark="a kind of your own")


def _pca(name: str, settings: PCASettings, width: int) -> SizedModel:
    from corgi_core.decoders.pca.network import PCANetwork, PCAShape

    shape = PCAShape(
        width, settings.image_size, settings.components, settings.width, settings.vectors,
        settings.vector_width,
    )  # fmt: skip

    def run(network: Any, images: int) -> Tensor:
        output: Tensor = network(torch.zeros(images, settings.components), *_cond(images, width))
        return output

    return SizedModel(name, lambda: PCANetwork(shape), run, settings.training)


def _cascade(name: str, settings: CascadeSettings, width: int) -> Iterator[SizedModel]:
    """A model for each stage, for each is a network of its own."""
    from corgi_core.decoders.cascade.checks import check_cascade
    from corgi_core.decoders.cascade.unet import Stage

    check_cascade(settings)
    for number, stage in enumerate(settings.stages):

        def build(stage: Any = stage, upsamples: bool = number > 0) -> nn.Module:
            return Stage(
                stage, width, settings.vectors, settings.vector_width, settings.text_width,
                upsamples,
            )  # fmt: skip

        def run(network: Any, images: int, side: int = stage.crop or stage.size) -> Tensor:
            x = torch.zeros(images, network.unet.config.in_channels, side, side)
            t, z, cond_mask = _cond(images, width)
            output: Tensor = network(x, t, torch.zeros(images), z, cond_mask)
            return output

        yield SizedModel(
            f"{name}, {stage.size} pixels", build, run, settings.training_of(number), stage=number,
            remark=f"on crops of {stage.crop} pixels" if stage.crop else "",
        )  # fmt: skip


def _gan(name: str, settings: GanSettings, width: int) -> SizedModel:
    from corgi_core.decoders.gan.generator import GanShape
    from corgi_core.decoders.gan.network import GanNetwork

    shape = GanShape(
        width, settings.image_size, settings.latent_width, settings.channel_base,
        settings.max_channels,
    )  # fmt: skip

    def build() -> nn.Module:
        return GanNetwork(shape, settings.augment_target, settings.augment_pictures)

    def run(network: Any, images: int) -> Tensor:
        from corgi_core.decoders.gan.augment import NUMBERS

        side = settings.image_size
        step = network(
            torch.zeros(images, 3, side, side), torch.zeros(images, width),
            torch.zeros(images, settings.latent_width), torch.zeros(images, 3, NUMBERS),
            None, False,
        )  # fmt: skip
        judged = (step.feedback, step.real, step.fake)
        return torch.cat([part.flatten() for each in judged for part in each])

    remark = "without its penalties and CLIP"
    return SizedModel(name, build, run, settings.training, remark=remark)


def _stable_diffusion(name: str, settings: StableDiffusionSettings, width: int) -> SizedModel:
    from corgi_core.decoders.stable_diffusion.network import (
        StableDiffusionNetwork,
        StableDiffusionShape,
    )
    from corgi_core.decoders.stable_diffusion.pipeline import read_configs

    configs = pipeline_configs(settings.pretrained)
    if configs is None and not Path(settings.pretrained).is_dir():
        return SizedModel(name, remark="its pipeline is not on this machine")
    configs = configs or read_configs(settings.pretrained)
    lora = settings.fine_tuning == "lora"
    shape = StableDiffusionShape(
        width, configs.unet, configs.vae, configs.scheduler,
        lora_rank=settings.lora_rank if lora else 0, lora_alpha=settings.lora_alpha if lora else 0,
    )  # fmt: skip

    def build() -> nn.Module:
        network = StableDiffusionNetwork.untrained(shape)
        network.set_trainable(settings.fine_tuning)
        if settings.checkpoint_activations:
            network.unet.enable_gradient_checkpointing()
        return network

    def run(network: Any, images: int) -> Tensor:
        side = settings.image_size // network.latent_pixels
        latents = torch.zeros(images, configs.unet["in_channels"], side, side)
        output: Tensor = network(latents, *_cond(images, width))
        return output

    own = configs.unet["sample_size"] * 2 ** (len(configs.vae["block_out_channels"]) - 1)
    remark = "" if own == settings.image_size else f"was trained for images of {own} pixels"
    return SizedModel(name, build, run, settings.training, remark=remark)


def _cond(samples: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps [n], embeddings [n, width] and a mask [n] of none dropped."""
    return (
        torch.zeros(samples, dtype=torch.long),
        torch.zeros(samples, width),
        torch.ones(samples, dtype=torch.bool),
    )
