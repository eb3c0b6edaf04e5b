"""Inception features for FID, from a TorchScript file that the user names by path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.batches import batches
from corgi_core.devices import inference
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of_file
from corgi_core.progress import report

IMAGES_AT_ONCE = 32  # unless a GPU has memory for more


class InceptionFeatures:
    """The 2048 pooled features of StyleGAN3's TorchScript Inception, or of a module like it.

    The module maps uint8 images [n, 3, h, w] in 0 … 255 to features [n, d]. Where its `forward` has
    a parameter `return_features`, it is called with `return_features=True`.

    Args:
        path: The TorchScript file.
        device: Where it computes, in float32 on every device, so that FIDs can be compared.

    Raises:
        CorgiError: there is no file at `path`, or it holds no TorchScript module.
    """

    def __init__(self, path: str, device: torch.device | str = "cpu") -> None:
        file = Path(path)
        if not file.is_file():
            raise CorgiError(
                f"there are no Inception weights at {path}",
                "give the path of a TorchScript Inception, or leave inception_weights unset",
            )
        load: Callable[..., Any] = torch.jit.load
        try:
            self.module = load(str(file), map_location="cpu").eval().to(device)
        except RuntimeError as error:
            raise CorgiError(
                f"{path} is no TorchScript module ({str(error).splitlines()[0]})",
                "give StyleGAN3's inception-2015-12-05 as TorchScript, or another of its form",
            ) from error
        self.device = torch.device(device)
        self.digest = digest_of_file(file)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.floating[Any]]:
        """Features [n, d] of images [n, 3, h, w] in [0, 1]."""
        takes_flag = "return_features" in str(self.module.forward.schema)
        options = {"return_features": True} if takes_flag else {}
        features = []
        with inference(self.device, "fp32"):
            for rows in batches(len(images), self.device, IMAGES_AT_ONCE):
                pixels = (images[rows].to(self.device) * 255).round().to(torch.uint8)
                features.append(self.module(pixels, **options))
                report("Inception features", rows.stop, len(images))
        found: NDArray[np.floating[Any]] = torch.cat(features).cpu().numpy()
        return found
