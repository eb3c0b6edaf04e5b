"""A model for servers that samples at once, or when it is let."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from corgi_core.serving.pictures import OrderedPicture, Picture
from corgi_core.serving.way_to_an_image import OrderedWay

WAY: dict[str, Any] = {
    "gaussian": 0, "start": {"mean": [0.0, 0.0], "radii": [1.0, 1.0], "angle": 0.0},
    "timesteps": [0], "points": [[0.0, 0.0]], "predictions": [[0.0, 0.0]], "images": [""],
}  # fmt: skip


class FakeModel:
    """Grey pictures at once, or when `gate` opens."""

    def __init__(self, name: str = "first") -> None:
        self.id = self.name = name
        self.about = {
            "name": name, "id": name, "digests": {}, "image_size": 1, "decoder": "fake",
            "decoders": [], "max_steps": 1, "num_steps": 1, "guidance": 1.0, "gaussians": 1,
            "prior_steps": 1, "has_training_images": False,
        }  # fmt: skip
        self.is_released = False
        self.map = {"explained": 1.0, "cloud": [[0.0, 1.0]], "gaussians": []}
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def made_by(self, decoder: str | None) -> dict[str, Any]:
        digests = {"decoder": decoder or "champion"}
        return {"name": self.name, "id": f"{self.id}-{decoder}", "digests": digests}

    def warmed(self) -> FakeModel:
        return self

    def sample(self, ordered: list[OrderedPicture] | list[OrderedWay]) -> list[Any]:
        assert self.gate.wait(20)
        self.batches.append(len(ordered))
        if isinstance(ordered[0], OrderedWay):
            return [WAY for _ in ordered]
        return [Picture(np.full((3, 1, 1), 0.5, np.float32), ()) for _ in ordered]
