"""How large a preset's models are and what their training costs, found without their weights."""

from __future__ import annotations

from corgi_core.sizes.caption_storage import CaptionStorage, caption_storage
from corgi_core.sizes.model_size import ModelSize, model_sizes
from corgi_core.sizes.pixel_storage import PixelStorage, pixel_storage
from corgi_core.sizes.time_needed import GPU_RATE, TimeNeeded, time_needed

__all__ = [
    "GPU_RATE", "CaptionStorage", "ModelSize", "PixelStorage", "TimeNeeded", "caption_storage",
    "model_sizes", "pixel_storage", "time_needed",
]  # fmt: skip
