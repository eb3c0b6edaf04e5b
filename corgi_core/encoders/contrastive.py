"""What every contrastive training shares: pairs, augmentation, CLIP's loss, held-out retrieval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.encoders.similarity import mean_encoder_cosine, recall_at
from corgi_core.encoders.tokens import TokenEncoder

LARGEST_SCALE = math.log(100)  # of the logits, as CLIP clips it
ZOOM = 0.15  # images grow or shrink by at most this share
SHIFT = 0.06  # of the side, in either direction
ANGLE = 0.15  # radians
CONTRAST = 0.1
BRIGHTNESS = 0.05
HELD_OUT_IMAGES = 4096  # of which retrieval is measured
JITTER_NUMBERS = 6  # uniform numbers that `jittered` needs for one image


def global_clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over the global batch. Unit vectors [n, d] twice, scale [].

    Each worker computes the whole batch's loss from gathered features; gradients flow through the
    gathering, so that averaging them over workers gives the loss's gradient.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    workers = torch.distributed.get_world_size() if distributed else 1
    rank = torch.distributed.get_rank() if distributed else 0
    loss = ClipLoss(gather_with_grad=True, rank=rank, world_size=workers)
    value: Tensor = loss(image, text, scale)
    return value


def jittered(pixels: Tensor, uniform: Tensor) -> Tensor:
    """Images shifted, rotated, scaled and relit a little, on white; never mirrored.

    A caption that says "left" stays true.

    pixels [n, 3, h, w] in [0, 1]; uniform [n, 6] in [0, 1) → [n, 3, h, w], about in [0, 1].
    """
    zoom, right, down, turn, contrast, brightness = (2 * uniform - 1).unbind(dim=1)
    zoom, angle = 1 + ZOOM * zoom, ANGLE * turn
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    across = torch.stack([cos, -sin, 2 * SHIFT * right], dim=1)
    along = torch.stack([sin, cos, 2 * SHIFT * down], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), list(pixels.shape), False)
    ink = F.grid_sample(1 - pixels, grid, align_corners=False)  # outside the image: no ink
    gain = (1 + CONTRAST * contrast).view(-1, 1, 1, 1)
    return (1 - ink) * gain + (BRIGHTNESS * brightness).view(-1, 1, 1, 1)


def pooled_captions(text: TokenEncoder, images: Dataset, folder: Path) -> ArrayStore:
    """Every caption of the images, encoded and pooled, a shard at a time.

    Args:
        text: The frozen encoder.
        images: The dataset with the captions.
        folder: Where the arrays are stored; shards that are there already are not computed again.

    Returns:
        "pooled" float32 [n, w], one row a caption, its key being its image's.
    """

    def pooled(shard: str) -> Arrays:
        rows = images.rows(shard, "key", "captions")
        by_image = zip(rows["key"], rows["captions"], strict=True)
        pairs = [(key, caption) for key, captions in by_image for caption in captions or []]
        keys = np.array([key for key, _ in pairs], dtype=str)
        return {"keys": keys, "pooled": text.pooled([caption for _, caption in pairs]).numpy()}

    spec = {"text_encoder": text.digest, "text_tokens": text.max_tokens}
    return compute_missing(folder, images, spec, pooled, "captions")


def held_out_retrieval(
    text: Tensor, image: Tensor, encoder_dims: Sequence[int]
) -> dict[str, float]:
    """Retrieval, cosine and modality gap of held-out pairs: caption i belongs to image i.

    text and image [n, d] are unit vectors under each encoder.
    """
    recalls = recall_at(text, image, (1, 5), encoder_dims)
    gaps = torch.split(text.mean(dim=0) - image.mean(dim=0), list(encoder_dims))
    return {
        "held_out_images": float(len(image)),
        **{f"recall_at_{rank}": value for rank, value in recalls.items()},
        "held_out_cosine": float(mean_encoder_cosine(text, image, encoder_dims).mean()),
        "modality_gap": float(torch.stack([gap.norm() for gap in gaps]).mean()),
    }
