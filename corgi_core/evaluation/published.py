"""What papers report, to stand beside one's own numbers: under the same named protocol only.

These numbers are not measured here, and no one can check how each paper prepared its images. So
they are always marked as published, and an evaluation under another protocol has none beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml


@dataclass(frozen=True)
class Published:
    """A score that a paper reports.

    Attributes:
        model: As the paper calls it.
        protocol: The name of a protocol among `NAMED`.
        metric: The score's name in `metrics.json`, such as "fid".
        value: The score.
        source: The paper, and where the value was found.
    """

    model: str
    protocol: str
    metric: str
    value: float
    source: str


@cache
def published_values() -> tuple[Published, ...]:
    """All of them, in the order of `published.yaml`."""
    text = files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    return tuple(Published(**each) for each in yaml.safe_load(text))


def published_under(protocol: str | None, metrics: Collection[str]) -> list[Published]:
    """The published values of some metrics under a protocol, the best first.

    Args:
        protocol: An evaluation's named protocol; None where it meets none.
        metrics: The names of its scores.

    Examples:
        >>> [each.model for each in published_under("coco-fid-30k", ["fid", "kid"])][0]
        'Parti'
        >>> published_under(None, ["fid"])
        []
    """
    found = [
        each for each in published_values()
        if each.protocol == protocol and each.metric in metrics
    ]  # fmt: skip
    return sorted(found, key=lambda each: (each.metric, each.value))
