"""A pipeline of Stable Diffusion's own classes, small enough to learn twelve shapes by heart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from shapes import SIDE, a_task
from torch.nn import functional as F

from corgi_core.decoders.picture_task import in_range
from corgi_core.decoders.stable_diffusion.task import StableDiffusionTask
from corgi_core.presets import StableDiffusionSettings, TrainingSettings

VAE_STEPS = 300
SETTINGS = StableDiffusionSettings(
    pretrained="", fine_tuning="full", lora_rank=2, lora_alpha=4, image_size=SIDE, blurred=0.0,
    least_cosine=0.7, embedding_dropout=0.1, guidance=1.0, sampling_steps=6,
    training=TrainingSettings(
        steps=400, batch_size=24, learning_rate=3e-3, warmup_steps=20, ema_decay=0.97,
        weight_decay=0.0, precision="fp32", evaluate_every=10_000,
    ),
)  # fmt: skip


def a_pipeline(folder: Path, pictures: torch.Tensor, *, prediction: str = "epsilon") -> Path:
    """Written as `save_pretrained` does; the VAE knows the pictures, uint8 [n, 3, s, s]."""
    torch.manual_seed(0)
    vae = _vae(in_range(pictures))
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2, in_channels=4, out_channels=4, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, cross_attention_dim=24, attention_head_dim=4, norm_num_groups=8,
        use_linear_projection=True,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction,
    )  # fmt: skip
    for name, part in {"vae": vae, "unet": unet, "scheduler": scheduler}.items():
        part.save_pretrained(folder / name)
    return folder


def _vae(pictures: torch.Tensor) -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16), norm_num_groups=4, sample_size=SIDE,
        mid_block_add_attention=False,
    )  # fmt: skip
    optimizer = torch.optim.Adam(vae.parameters())
    for step in range(VAE_STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / VAE_STEPS)
        found = vae.encode(pictures).latent_dist
        drawn = vae.decode(found.mean + 0.05 * torch.randn_like(found.mean)).sample
        loss = F.mse_loss(drawn, pictures) + 1e-4 * found.mean.square().mean()
        optimizer.zero_grad()
        (loss + 1e-3 * (found.logvar + 6).square().mean()).backward()
        optimizer.step()
    with torch.no_grad():
        spread = vae.encode(pictures).latent_dist.mean.std()
    vae.register_to_config(scaling_factor=float(1 / spread))
    return vae.eval()


def a_diffusion_task(folder: Path, **changes: object) -> StableDiffusionTask:
    """The shapes, their random embeddings and a fresh pipeline."""
    shapes = a_task(folder / "data")
    pretrained = a_pipeline(folder / "pipeline", shapes.training_pixels)
    settings = replace(SETTINGS, pretrained=str(pretrained), **changes)
    return StableDiffusionTask(
        settings, shapes.pixels, shapes.embeddings, shapes.train_keys, shapes.test_keys
    )
