"""Training of the Stable Diffusion decoder: denoising of latents, conditioned on embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.config import StableDiffusionSettings
from corgi_core.decoders.stable_diffusion.decoder import StableDiffusionDecoder
from corgi_core.decoders.stable_diffusion.latents import Latents
from corgi_core.decoders.stable_diffusion.network import (
    StableDiffusionNetwork,
    StableDiffusionShape,
)
from corgi_core.decoders.stable_diffusion.pipeline import (
    PipelineConfigs,
    load_unet,
    load_vae,
    read_configs,
)
from corgi_core.decoders.task import DecoderTask, PictureBatch
from corgi_core.diffusion.parameterization import target
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom


@dataclass
class StableDiffusionTask(DecoderTask[StableDiffusionSettings, StableDiffusionNetwork]):
    """Fine-tuning of a pretrained pipeline.

    `clip` embeds a black image, if guidance starts from that. The embedding is sent to the workers,
    CLIP is not.
    """

    clip: ClipEnsemble | None = None
    black: Tensor | None = None  # [d]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_size()
        if self.settings.negative == "zero" and self.black is None:
            if self.clip is None:
                raise CorgiError("there is no CLIP to embed a black image with", "give the task it")
            side = self.clip.image_size
            self.black = self.clip.encode_images(torch.zeros(1, 3, side, side))[0].cpu()
        self.clip = None

    def build(self) -> StableDiffusionNetwork:
        """The pretrained networks, with an untrained projection."""
        s = self.settings
        unet, vae = load_unet(s.pretrained), load_vae(s.pretrained)
        network = StableDiffusionNetwork(self._shape, unet, vae)
        network.set_trainable(s.fine_tuning)
        if s.checkpoint_activations:
            network.unet.enable_gradient_checkpointing()
        return network

    def decoder(
        self, model: StableDiffusionNetwork, card: Mapping[str, Any]
    ) -> StableDiffusionDecoder:
        """The fine-tuned network as a decoder."""
        return StableDiffusionDecoder(model, self.settings, self.embeddings.spec, card)

    def fit(self, model: StableDiffusionNetwork) -> None:
        """Set the negative embedding: the black image's, or the mean of the training images'."""
        black = self.black
        negative = self.spaced_embeddings.mean(dim=0) if black is None else black
        model.conditioning.negative.copy_(negative)

    def loss(self, model: nn.Module, batch: PictureBatch, random: StepRandom) -> dict[str, Tensor]:
        """The mean squared error, at one (t, noise) an image."""
        x_0 = self._latents.sample(batch.pixels, random)
        z = self.perturbed(batch.z.float(), random)
        t = random.integers(self._schedule.num_timesteps)
        noise = random.normal(*x_0.shape[1:])
        x_t = self._schedule.add_noise(x_0, noise, t)
        predicted = model(x_t, t, z, random.uniform() >= self.settings.cond_dropout)
        alphas_cumprod = self._schedule.alphas_cumprod.to(t.device)[t]
        wanted = target(self._shape.parameterization, x_0, noise, alphas_cumprod)
        return {"loss": (predicted - wanted).square().mean()}

    @cached_property
    def _configs(self) -> PipelineConfigs:
        return read_configs(self.settings.pretrained)

    @cached_property
    def _shape(self) -> StableDiffusionShape:
        s, configs = self.settings, self._configs
        lora = s.fine_tuning == "lora"
        return StableDiffusionShape(
            self.embeddings.spec["width"], configs.unet, configs.vae, configs.scheduler,
            lora_rank=s.lora_rank if lora else 0, lora_alpha=s.lora_alpha if lora else 0,
        )  # fmt: skip

    @cached_property
    def _schedule(self) -> Schedule:
        return Schedule.of_pipeline(self._configs.scheduler)

    @cached_property
    def _latents(self) -> Latents:
        return Latents(self.settings.pretrained)

    def _check_size(self) -> None:
        s, multiple = self.settings, self._configs.size_multiple
        if s.image_size % multiple:
            raise CorgiError(
                f"{s.pretrained} makes no images of {s.image_size} pixels to a side",
                f"set the decoder's image_size to a multiple of {multiple}",
            )
