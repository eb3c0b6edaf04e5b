"""An image embedding that takes its time, to be killed in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from corgi_core.data.arrays import Arrays
from corgi_core.encoders.embed import ImageEmbedding


@dataclass(frozen=True)
class SlowEmbedding(ImageEmbedding):
    """Each shard takes `pause` seconds longer."""

    pause: float

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        encode = super().opened(device, threads)

        def slow(shard: str) -> Arrays:
            time.sleep(self.pause)
            return encode(shard)

        return slow
