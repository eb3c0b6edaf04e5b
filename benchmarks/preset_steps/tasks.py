"""The training task of every model of a preset, on data of its real shapes and of no meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.preset_steps.stores import Stores
from corgi_core.config import (
    CascadeSettings,
    GanSettings,
    Preset,
    StableDiffusionSettings,
    TrainingSettings,
    clusters_of,
)
from corgi_core.data.keys import ListedKeys
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.decoders.registry import decoder_task
from corgi_core.decoders.stable_diffusion.network import StableDiffusionNetwork
from corgi_core.decoders.stable_diffusion.task import StableDiffusionTask
from corgi_core.errors import CorgiError
from corgi_core.prior.task import PriorTask
from corgi_core.sizes.models import SizedModel, widths_of
from corgi_core.sizes.published import pipeline_configs
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import Task


def task_of(preset: Preset, model: SizedModel, folder: Path) -> tuple[Task[Any], TrainingSettings]:
    """The training of a model on a few samples under `folder`, one in a step.

    Args:
        preset: Whose model it is.
        model: One that is trained.
        folder: An empty folder for the data.
    """
    assert model.training is not None
    training = replace(model.training, batch_size=1, accumulation=1, precision="bf16")
    stores = Stores(folder, _encoder_dims(preset))
    if model.name == "prior":
        return _prior_task(preset, stores), training
    return _decoder_task(model, stores), training


class UntrainedPipelineTask(StableDiffusionTask):
    """Fine-tuning of a pipeline's networks with random weights, on random latents."""

    def build(self) -> StableDiffusionNetwork:
        """The networks of the pipeline's configurations."""
        network = StableDiffusionNetwork.untrained(self._shape)
        network.set_trainable(self.settings.fine_tuning)
        if self.settings.checkpoint_activations:
            network.unet.enable_gradient_checkpointing()
        return network

    @property
    def _latents(self) -> Any:
        return RandomLatents(self.settings.image_size // 8)


@dataclass(frozen=True)
class RandomLatents:
    """Instead of what the VAE encodes once, before the first step."""

    side: int

    def sample(self, images: Tensor, random: StepRandom) -> Tensor:
        """Latents [b, 4, side, side]."""
        return random.normal(4, self.side, self.side)


def _prior_task(preset: Preset, stores: Stores) -> PriorTask:
    text_width, tokens = widths_of(preset)[0], preset.encoders.text_tokens
    assert text_width is not None
    return PriorTask(
        settings=preset.prior,
        images=stores.embeddings(),
        texts=stores.texts(text_width, tokens),
        captioned=ListedKeys(tuple(stores.keys.tolist())),
        validation_keys=ListedKeys(()),
        bank=stores.bank(max(clusters_of(variant) or 1 for variant in preset.variants)),
    )


def _decoder_task(model: SizedModel, stores: Stores) -> Task[Any]:
    settings = model.decoder
    if settings is None or isinstance(settings, GanSettings):
        raise CorgiError(f"{model.name} learns from several samples", "leave it out with --models")
    inputs: dict[str, Any] = {
        "pixels": stores.pixels(settings.image_size), "embeddings": stores.embeddings(),
        "train_keys": ListedKeys(tuple(stores.keys)), "validation_keys": ListedKeys(()),
    }  # fmt: skip
    if isinstance(settings, CascadeSettings):
        assert model.stage is not None
        return CascadeTask(settings, **inputs, stage=model.stage)
    if isinstance(settings, StableDiffusionSettings):
        pipeline = _without_weights(settings.pretrained, stores.folder / "pipeline")
        return UntrainedPipelineTask(replace(settings, pretrained=pipeline), **inputs)
    return decoder_task(settings, None, **inputs)


def _without_weights(pretrained: str, folder: Path) -> str:
    """The folder of a pipeline's configurations, as diffusers' `save_pretrained` names them."""
    configs = pipeline_configs(pretrained)
    if configs is None:
        return pretrained
    files: Mapping[str, Mapping[str, Any]] = {
        "unet/config.json": {"_class_name": "UNet2DConditionModel", **configs.unet},
        "vae/config.json": {"_class_name": "AutoencoderKL", **configs.vae},
        "scheduler/scheduler_config.json": {"_class_name": "DDPMScheduler", **configs.scheduler},
    }
    for name, config in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def _encoder_dims(preset: Preset) -> list[int]:
    dims = widths_of(preset)[1]
    if None in dims:
        raise CorgiError(
            f"the embeddings of the preset {preset.name} have a width that its data decide",
            "choose a preset that names or trains its CLIP encoders",
        )
    return [each for each in dims if each is not None]
