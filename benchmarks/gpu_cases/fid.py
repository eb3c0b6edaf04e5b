"""FID's features: a TorchScript Inception in float32. Needs torchvision, whose Inception it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_cases.case import Case, Sizes, System
from corgi_core.metrics.inception import InceptionFeatures

IMAGES, FEW = 1024, 4
SIDE = 299  # pixels that Inception reads


class Pooled(nn.Module):
    """uint8 images [n, 3, h, w] → features [n, d], as FID's Inception takes and gives them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Resized, scaled to −1 … 1, pooled."""
        resized = nn.functional.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear")
        features: Tensor = self.network(resized / 127.5 - 1)
        return features


def cases(sizes: Sizes) -> Iterator[Case]:
    """The features of pictures of 256 pixels."""
    count = FEW if sizes.small else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "inception.pt")
        traced(sizes.small).save(path)
        features = InceptionFeatures(path, sizes.device)
    pictures = torch.rand(count, 3, 256, 256)
    yield Case(
        "FID: Inception features", "images", count, "fp32",
        System("corgi", lambda: features(pictures), count),
    )  # fmt: skip


def traced(small: bool) -> Any:
    """An untrained Inception as TorchScript; a single convolution where small."""
    network: nn.Module
    if small:
        network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    else:
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, aux_logits=False, init_weights=False)
        network.fc = nn.Identity()
    module = Pooled(network).eval()
    with torch.no_grad():
        return torch.jit.trace(module, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
