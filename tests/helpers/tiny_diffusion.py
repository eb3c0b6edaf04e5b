"""A small, untrained pipeline of Stable Diffusion's own classes, for pictures of 16 pixels."""

from __future__ import annotations

from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler


def tiny_vae() -> AutoencoderKL:
    """Latents [n, 4, 8, 8]."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16), norm_num_groups=4, sample_size=16,
        mid_block_add_attention=False,
    ).eval()  # fmt: skip


def tiny_unet(**changes: object) -> UNet2DConditionModel:
    """Reads text tokens 24 wide."""
    options = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1,
        "cross_attention_dim": 24, "attention_head_dim": 4, "norm_num_groups": 8,
        "use_linear_projection": True,
    }  # fmt: skip
    return UNet2DConditionModel(**options | changes)


def tiny_scheduler(prediction: str = "epsilon") -> PNDMScheduler:
    """The noise schedule that Stable Diffusion 2 comes with."""
    return PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction,
    )  # fmt: skip


def save_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    scheduler: PNDMScheduler,
    *,
    safe: bool = True,
) -> Path:
    """Writes the parts as a pipeline's `save_pretrained` does; pickled unless `safe`."""
    vae.save_pretrained(folder / "vae", safe_serialization=safe)
    unet.save_pretrained(folder / "unet", safe_serialization=safe)
    scheduler.save_pretrained(folder / "scheduler")
    return folder
