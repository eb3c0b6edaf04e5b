"""The configurations of published models that presets name, so that these are sized offline.

They are facts about weights that others have published: sizes of layers, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from corgi_core.decoders.stable_diffusion.pipeline import PipelineConfigs

_T5: dict[str, dict[str, Any]] = {
    "google-t5/t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "google-t5/t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "google-t5/t5-11b": {
        "d_model": 1024, "d_ff": 65536, "d_kv": 128, "num_layers": 24, "num_heads": 128,
    },
}  # fmt: skip
# Hub id → side of the latents, and what the UNet predicts.
_STABLE_DIFFUSION = {
    "stabilityai/stable-diffusion-2-base": (64, "epsilon"),
    "stabilityai/stable-diffusion-2": (96, "v_prediction"),
}
_LATENT_PIXELS = 8  # of an image, to a side of a latent


def text_encoder_config(name: str) -> PretrainedConfig | None:
    """The configuration of a published text encoder; None for one that is not listed here."""
    from transformers import T5Config

    return T5Config(**_T5[name]) if name in _T5 else None


def pipeline_configs(name: str) -> PipelineConfigs | None:
    """The configurations of a published pipeline; None for one that is not listed here."""
    from corgi_core.decoders.stable_diffusion.pipeline import PipelineConfigs

    if name not in _STABLE_DIFFUSION:
        return None
    side, prediction = _STABLE_DIFFUSION[name]
    unet: dict[str, Any] = {
        "sample_size": side, "in_channels": 4, "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    }  # fmt: skip
    vae: dict[str, Any] = {
        "sample_size": side * _LATENT_PIXELS, "latent_channels": 4,
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4, "scaling_factor": 0.18215,
    }  # fmt: skip
    scheduler: dict[str, Any] = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
    }  # fmt: skip
    return PipelineConfigs(unet, vae, scheduler)
