"""What every CLIP training here has in common: whose caption is whose, and held-out retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corgi_core.data.dataset import Dataset
from corgi_core.encoders.similarity import mean_encoder_cosine, recall_at


def captions_by_split(images: Dataset) -> dict[str, list[tuple[str, str]]]:
    """(key, caption) by split; of a held-out image the first caption alone."""
    captions: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    columns = (images.manifest[column] for column in ("key", "captions", "split"))
    for key, texts, split in zip(*columns, strict=True):
        kept = (texts or [])[: None if split == "train" else 1]
        captions[split].extend((key, text) for text in kept)
    return captions


def held_out_retrieval(
    text: Tensor, image: Tensor, encoder_dims: Sequence[int]
) -> dict[str, float]:
    """Retrieval, cosine and modality gap of held-out pairs: caption i belongs to image i.

    text, image [n, d], the blocks unit vectors.
    """
    recalls = recall_at(text, image, (1, 5), encoder_dims)
    gaps = (text.mean(dim=0) - image.mean(dim=0)).split(list(encoder_dims))
    return {
        "held_out_images": float(len(image)),
        **{f"recall_at_{rank}": value for rank, value in recalls.items()},
        "held_out_cosine": float(mean_encoder_cosine(text, image, encoder_dims).mean()),
        "modality_gap": float(torch.stack([gap.norm() for gap in gaps]).mean()),
    }
