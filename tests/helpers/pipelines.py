"""A tiny pipeline that can memorise eight coloured shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from corgi_core.config import StableDiffusionSettings, TrainingSettings
from corgi_core.decoders.decoder import signed
from corgi_core.decoders.stable_diffusion.task import StableDiffusionTask
from tests.helpers.shapes import SIDE, a_task, knowing_half, pictures_of
from tests.helpers.tiny_diffusion import save_pipeline, tiny_scheduler, tiny_unet, tiny_vae

VAE_STEPS = 300
SETTINGS = StableDiffusionSettings(
    pretrained="", fine_tuning="full", lora_rank=2, lora_alpha=4, image_size=SIDE, perturbed=0.0,
    min_cosine=0.7, cond_dropout=0.1, guidance=1.0, num_steps=6,
    training=TrainingSettings(
        steps=280, batch_size=16, learning_rate=3e-3, warmup_steps=20, ema_decay=0.97,
        weight_decay=0.0, precision="fp32", evaluate_every=10_000,
    ),
)  # fmt: skip


def a_pipeline(folder: Path, pictures: Tensor) -> Path:
    """An untrained UNet, and a VAE that knows the pictures, uint8 [n, 3, s, s]."""
    torch.manual_seed(0)
    return save_pipeline(folder, a_vae(signed(pictures)), tiny_unet(), tiny_scheduler())


def a_vae(pictures: Tensor) -> AutoencoderKL:
    vae = tiny_vae()
    optimizer = torch.optim.Adam(vae.parameters())
    for step in range(VAE_STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / VAE_STEPS)
        found = vae.encode(pictures).latent_dist
        decoded = vae.decode(found.mean + 0.05 * torch.randn_like(found.mean)).sample
        loss = F.mse_loss(decoded, pictures) + 1e-4 * found.mean.square().mean()
        optimizer.zero_grad()
        (loss + 1e-3 * (found.logvar + 6).square().mean()).backward()
        optimizer.step()
    with torch.no_grad():
        spread = vae.encode(pictures).latent_dist.mean.std()
    vae.register_to_config(scaling_factor=float(1 / spread))
    return vae.eval()


def a_diffusion_task(folder: Path, **changes: object) -> StableDiffusionTask:
    """The shapes, their random embeddings and a fresh pipeline."""
    shapes = knowing_half(a_task(folder / "data"))
    pretrained = a_pipeline(folder / "pipeline", pictures_of(shapes))
    settings = replace(SETTINGS, pretrained=str(pretrained), **changes)
    return StableDiffusionTask(
        settings, shapes.pixels, shapes.embeddings, shapes.train_keys, shapes.validation_keys
    )
