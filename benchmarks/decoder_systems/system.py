"""What the benchmark asks of a decoder's training, of Corgi's and of its peers' alike."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Case:
    """What all systems get alike."""

    preset: str
    pictures: Path  # a folder of image files, all that there is to train on
    stores: Path  # of Corgi, made from them before anything is timed
    batch: int
    precision: str
    threads: int


class System(Protocol):
    def running(self) -> AbstractContextManager[None]:
        """What its training puts around all of its steps."""

    def step(self) -> None:
        """One step of training, on `case.batch` pictures."""
