"""An untrained prior of diffusers' own classes, as Kandinsky's: small, 16 wide, if not asked."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.helpers.tiny_clip_text import TOKENS, tiny_text_config, tiny_tokenizer

WIDTH = 16


def tiny_prior_pipeline(
    width: int = WIDTH, heads: int = 2, head_width: int = 8
) -> KandinskyV22PriorPipeline:
    """With a mean and a standard deviation of its embeddings that are not 0 and 1."""
    torch.manual_seed(0)
    network = PriorTransformer(
        num_attention_heads=heads, attention_head_dim=head_width, num_layers=1, embedding_dim=width,
        num_embeddings=TOKENS,
    )  # fmt: skip
    network.clip_mean.data.normal_()
    network.clip_std.data.uniform_(0.5, 2)
    network.positional_embedding.data.normal_()
    network.prd_embedding.data.normal_()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4, projection_dim=width,
    )  # fmt: skip
    return KandinskyV22PriorPipeline(
        network.eval(),
        CLIPVisionModelWithProjection(vision),
        CLIPTextModelWithProjection(tiny_text_config(width)).eval(),
        tiny_tokenizer(),
        UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        CLIPImageProcessor(),
    )


def saved_prior(folder: Path) -> Path:
    """That pipeline in a folder."""
    tiny_prior_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder
