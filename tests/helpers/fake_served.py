"""A model for servers that samples at once, or when it is let."""

from __future__ import annotations

import threading

import numpy as np

from corgi_core.serving.pictures import OrderedPicture, Picture


class FakeModel:
    """Grey pictures at once, or when `gate` opens."""

    def __init__(self, name: str = "first") -> None:
        self.id = self.name = name
        self.about = {
            "name": name, "id": name, "digests": {}, "image_size": 1, "decoder": "fake",
            "decoders": [], "max_steps": 1, "num_steps": 1, "guidance": 1.0, "gaussians": 1,
            "prior_steps": 1, "has_training_images": False,
        }  # fmt: skip
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def warmed(self) -> FakeModel:
        return self

    def sample(self, ordered: list[OrderedPicture]) -> list[Picture]:
        assert self.gate.wait(20)
        self.batches.append(len(ordered))
        return [Picture(np.full((3, 1, 1), 0.5, np.float32), ()) for _ in ordered]
