"""DINOv2's features of pictures, from a folder that the user names by path.

A network that has learned from pictures alone, without labels and captions: people's judgement
agrees with distances of its features better than with those of Inception's (Stein et al., Exposing
Flaws of Generative Model Evaluation Metrics, 2023).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from corgi_core.batches import batches
from corgi_core.devices import inference
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, digest_of_file, read_json
from corgi_core.progress import report

IMAGES_AT_ONCE = 16  # unless a GPU has memory for more
SIZE = 224  # pixels to a side, as the authors evaluate
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
CONFIG, WEIGHTS = "config.json", "model.safetensors"
REMEDY = "give the folder of a DINOv2 as transformers saves it, with config.json and safetensors"


class Dinov2Features:
    """The class token's features, of widths 384 (ViT-S) to 1536 (ViT-g).

    Args:
        folder: transformers' files of the model.
        device: Where it computes, in float32 on every device, so that distances can be compared.

    Raises:
        CorgiError: the folder holds no whole DINOv2.
    """

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        self.digest = dinov2_digest(folder)
        from safetensors import SafetensorError
        from transformers import Dinov2Model

        load: Any = Dinov2Model.from_pretrained
        try:
            model, loaded = load(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise CorgiError(
                f"the DINOv2 in {folder} cannot be read ({str(error).splitlines()[0]})", REMEDY
            ) from error
        if missing := sorted(loaded["missing_keys"]):
            raise CorgiError(
                f"{folder} lacks {len(missing)} of DINOv2's tensors, such as {missing[0]}", REMEDY
            )
        self.module = model.eval().to(device)
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.floating[Any]]:
        """Features [n, d] of images [n, 3, s, s] in [0, 1], which are rounded to 8 bits."""
        mean, std = (torch.tensor(each, device=self.device)[:, None, None] for each in (MEAN, STD))
        features = []
        with inference(self.device, "fp32"):
            for rows in batches(len(images), self.device, IMAGES_AT_ONCE):
                pixels = (images[rows].to(self.device) * 255).round() / 255
                scaled = F.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", antialias=True)
                features.append(self.module((scaled.clamp(0, 1) - mean) / std).pooler_output)
                report("DINOv2 features", rows.stop, len(images))
        found: NDArray[np.floating[Any]] = torch.cat(features).cpu().numpy()
        return found


def dinov2_digest(folder: str) -> str:
    """Names the model in a folder; CorgiError where there is none."""
    config, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    if not config.is_file() or not weights.is_file():
        raise CorgiError(f"there are no {CONFIG} and {WEIGHTS} in {folder}", REMEDY)
    if (kind := read_json(config).get("model_type")) != "dinov2":
        raise CorgiError(f"{folder} holds a model of the type {kind}, and no DINOv2", REMEDY)
    return digest_of(digest_of_file(config), digest_of_file(weights))
