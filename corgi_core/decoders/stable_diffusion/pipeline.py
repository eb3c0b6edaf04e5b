"""The parts of a Stable Diffusion pipeline that the decoder uses: UNet, VAE and noise schedule.

They come from a hub id or from a folder as diffusers' `save_pretrained` writes it, and from
safetensors only: pickled weights could run code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from corgi_core.errors import CorgiError

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class PipelineConfigs:
    """The contents of the pipeline's JSON files."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]

    @property
    def size_multiple(self) -> int:
        """Pixels that an image's side must be a multiple of, because VAE and UNet halve it."""
        halvings = [len(part["block_out_channels"]) - 1 for part in (self.vae, self.unet)]
        return int(2 ** sum(halvings))


def read_configs(source: str) -> PipelineConfigs:
    """The configurations of a pipeline; nothing else is loaded.

    Raises CorgiError if there is no pipeline, or its UNet needs more conditions than a text, has
    other latents than the VAE, or predicts neither noise nor velocity.
    """
    _check_folder(source)
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": DDPMScheduler}
    found = {}
    for part, kind in kinds.items():
        with _explained(source, part):
            config = kind.load_config(source, subfolder=part)
        found[part] = {k: v for k, v in config.items() if k == "_class_name" or k[0] != "_"}
    configs = PipelineConfigs(**found)
    _check(source, configs)
    return configs


def load_unet(source: str) -> UNet2DConditionModel:
    """The pretrained UNet, float32; CorgiError if it has no safetensors."""
    with _explained(source, "unet"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
            source, subfolder="unet", use_safetensors=True, torch_dtype=torch.float32
        )
    return unet


def load_vae(source: str) -> AutoencoderKL:
    """The pretrained VAE, float32; CorgiError if it has no safetensors."""
    with _explained(source, "vae"):
        vae: AutoencoderKL = AutoencoderKL.from_pretrained(
            source, subfolder="vae", use_safetensors=True, torch_dtype=torch.float32
        )
    return vae


def _check_folder(source: str) -> None:
    if source.startswith(("/", ".", "~")) and not Path(source).is_dir():
        raise CorgiError(
            f"there is no folder {source}",
            "give the folder of a Stable Diffusion 2 pipeline, or a hub id such as "
            "stabilityai/stable-diffusion-2-base",
        )


@contextmanager
def _explained(source: str, part: str) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        reason = " ".join(str(failure).split()).partition(". ")[0]
        raise CorgiError(
            f"the {part} of {source} cannot be loaded: {reason}",
            f"give a hub id, or a folder that holds {part}/ as diffusers' save_pretrained writes "
            "it, weights as safetensors",
        ) from failure


def _check(source: str, configs: PipelineConfigs) -> None:
    unet, latents = configs.unet, configs.vae["latent_channels"]
    if unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise CorgiError(
            f"the UNet of {source} needs more conditions than a text",
            "give a Stable Diffusion 2 pipeline",
        )
    if unet["in_channels"] != latents or unet["out_channels"] != latents:
        raise CorgiError(
            f"the UNet of {source} turns {unet['in_channels']} channels into "
            f"{unet['out_channels']}, the VAE's latents have {latents}",
            "give a pipeline that makes images from text alone, not one for inpainting",
        )
    prediction = configs.scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise CorgiError(
            f"the scheduler of {source} has prediction_type {prediction!r}",
            f"give a pipeline that predicts {' or '.join(PREDICTIONS)}",
        )
