"""An image embedding whose encoder makes NaN from one shard on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from corgi_core.data.arrays import Arrays
from corgi_core.encoders.embed import ImageEmbedding


@dataclass(frozen=True)
class SpoiltEmbedding(ImageEmbedding):
    """From `shard` on, the encoder's first weights are not numbers."""

    shard: str
    uses_device = False  # the tests' Ray counts a GPU that is not there

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        encode = super().opened(device, threads)

        def spoilt(shard: str) -> Arrays:
            if shard == self.shard:
                self._ensemble.encoders[0].model.visual.conv1.weight.data.fill_(torch.nan)
            return encode(shard)

        return spoilt
