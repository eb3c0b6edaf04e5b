"""Systems that take turns at the same work, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.prior_systems.parent import Child


@dataclass
class Contender:
    """A system with its work and settings, and what was measured of it.

    Attributes:
        child: The system's process.
        work: What it is asked to measure.
        about: What a row says of it, beside the system's name.
        seconds: By the clock, of each round.
        processor: The processor's seconds, of each round.
        images: Of a round.
        first: Seconds of the round that warms up.
    """

    child: Child
    work: dict[str, Any]
    about: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    images: int = 0
    first: float = 0.0

    def warm(self) -> None:
        """A round that does not count."""
        self.first = self.child.ask("measure", **self.work)["seconds"]

    def measure(self) -> None:
        """One round."""
        answer = self.child.ask("measure", **self.work)
        self.images = answer["images"]
        self.seconds.append(answer["seconds"])
        self.processor.append(answer["processor"])

    def row(self) -> dict[str, Any]:
        """Images a second by the median of the rounds, and processor time an image."""
        return {
            "system": self.child.name,
            **self.about,
            "images": self.images,
            "rounds": len(self.seconds),
            "per_second": self.images / statistics.median(self.seconds),
            "fastest": self.images / min(self.seconds),
            "slowest": self.images / max(self.seconds),
            "processor_ms": 1000 * statistics.median(self.processor) / self.images,
        }


def in_turns(contenders: Sequence[Contender], rounds: int) -> Iterator[int]:
    """Measure all of them in every round, another one first in each; yields the rounds' numbers."""
    for number in range(rounds):
        yield number
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            contender.measure()
