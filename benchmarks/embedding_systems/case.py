"""What all systems embed: the same tars, under the same weights, and what is measured of it."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

RESULT = "embeddings.npy"


@dataclass(frozen=True)
class Case:
    """The work of every round, and how a system is to do it.

    Attributes:
        folder: A dataset of Corgi; its `shards/*.tar` are WebDataset's.
        model: The encoder's folder: `open_clip_config.json` and `model.safetensors`.
        architecture: open_clip's name of it.
        config: A file that describes the architecture, where open_clip does not know it.
        precision: "fp32", "amp_bf16" (autocast) or "bf16" (weights and activations).
        batch: Images.
        workers: Of the DataLoader.
        stored: Whether squares are written first, and read from there.
    """

    folder: str
    model: str
    architecture: str
    config: str | None
    precision: str = "fp32"
    batch: int = 64
    workers: int = 2
    stored: bool = False

    @property
    def tars(self) -> list[str]:
        return sorted(str(path) for path in (Path(self.folder) / "shards").glob("*.tar"))

    @property
    def weights(self) -> str:
        return str(Path(self.model) / "model.safetensors")


class System(Protocol):
    """Embeds the tars of a case."""

    def embed(self, case: Case, folder: Path) -> int:
        """Write all embeddings below `folder`, which is empty; the number of images."""

    def check(self, case: Case) -> float:
        """The lowest cosine of a few images' embeddings to those of plain open_clip in float32."""


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def serve(system: System, folder: Path) -> None:
    """Answer requests until stdin ends, a line of JSON each.

    {"do": "measure", "case": …} → {"images", "seconds", "processor"}; {"do": "check"} → {"cosine"}.
    """
    import shutil

    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print belongs with the errors
    actions: dict[str, Callable[[Case], dict[str, Any]]] = {
        "measure": lambda case: _measured(system, case, folder),
        "check": lambda case: {"cosine": system.check(case)},
    }
    for line in sys.stdin:
        request = json.loads(line)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        answer = actions[request["do"]](Case(**request["case"]))
        print(json.dumps(answer), file=answers)


def _measured(system: System, case: Case, folder: Path) -> dict[str, Any]:
    began, used = time.perf_counter(), processor_seconds()
    images = system.embed(case, folder)
    return {
        "images": images,
        "seconds": time.perf_counter() - began,
        "processor": processor_seconds() - used,
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The lowest cosine of rows of two matrices."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())
