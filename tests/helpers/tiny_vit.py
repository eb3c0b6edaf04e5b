"""A small, untrained open_clip model, with open_clip's own text transformer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from corgi_core.encoders.open_clip_model import OpenClipModel

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


def tiny_vit(name: str, width: int, layers: int, context_length: int) -> OpenClipModel:
    """A ViT that reads 32 pixels, its embeddings `width` wide."""
    import open_clip  # after corgi_core, which mends torchvision beside a CPU build of torch

    architecture = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": layers},
        "text_cfg": {"context_length": context_length, "width": 64, "heads": 2, "layers": layers},
    }
    model = open_clip.CLIP(**architecture)
    open_clip.model.set_model_preprocess_cfg(
        model,
        {"size": (32, 32), "mode": "RGB", "mean": open_clip.OPENAI_DATASET_MEAN,
         "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic",
         "resize_mode": "shortest", "fill_color": 0},
    )  # fmt: skip
    return OpenClipModel(name, model, architecture, tokenizer())


@cache
def tokenizer() -> SimpleTokenizer:
    """open_clip's own, which takes a third of a second to make."""
    import open_clip

    made: SimpleTokenizer = open_clip.get_tokenizer("ViT-B-32")
    return made
