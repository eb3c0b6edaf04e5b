"""A job whose arrays are a function of the keys, and whose workers can be made to die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays
from corgi_core.data.dataset import Dataset


@dataclass(frozen=True)
class Numbers(ArrayJob):
    """The keys as numbers. Its fields are the faults that happen.

    Attributes:
        log: A folder with a file for every opening, "opened-<process>", which holds the device and
            the threads, for every shard that was begun, "<shard>-<process>", and for every death,
            "died-<process>".
        die_at: The shard in whose middle the process kills itself with SIGKILL …
        deaths: … until so many have.
    """

    images: Dataset
    log: Path
    die_at: str = ""
    deaths: int = 0
    what = "numbers"
    revision = 1

    @property
    def about(self) -> dict[str, Any]:
        return {"base": 10}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        me = os.getpid()
        with (self.log / f"opened-{me}").open("x") as file:
            file.write(f"{threads} threads, {device}")

        def numbers(shard: str) -> Arrays:
            (self.log / f"{shard}-{me}").touch()
            keys = []
            for key, _ in self.images.images(shard):
                keys.append(key)
                if shard == self.die_at and len(list(self.log.glob("died-*"))) < self.deaths:
                    (self.log / f"died-{me}").touch()
                    os.kill(me, signal.SIGKILL)
            return {"keys": np.array(keys), "number": np.array([int(key) for key in keys])}

        return numbers

    def processes(self, event: str) -> set[int]:
        """The processes that had such an event."""
        return {int(file.name.partition("-")[2]) for file in self.log.glob(f"{event}-*")}

    def devices(self) -> list[str]:
        """The devices and threads that processes opened the job for."""
        return [file.read_text() for file in self.log.glob("opened-*")]


class DeviceNumbers(Numbers):
    """The same as a job that asks for a GPU."""

    uses_device = True
