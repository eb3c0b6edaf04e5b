"""Tables that the code reads a shard at a time, as one frame for a test to look at."""

from collections.abc import Callable, Iterator

import pandas as pd

from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import iter_skipped
from corgi_core.data.manifest import MANIFEST
from corgi_core.data.quality import QUARANTINE, iter_quarantine
from corgi_core.data.skipped import SKIPPED


def manifest_of(dataset: Dataset) -> pd.DataFrame:
    """One row an image, by shard and key."""
    return _joined(dataset.iter_rows(), MANIFEST.names)


def skipped_of(raw: Dataset, last: bool = False) -> pd.DataFrame:
    """What was passed over by all ingests, or by the last one."""
    return _joined(iter_skipped(raw, last), SKIPPED.names)


def quarantine_of(gated: Dataset) -> pd.DataFrame:
    """What the gate left out or changed."""
    return _joined(iter_quarantine(gated), QUARANTINE.names)


def in_parts(frame: pd.DataFrame, size: int) -> Callable[..., Iterator[pd.DataFrame]]:
    """What `Dataset.iter_rows` is for a manifest in shards of that many rows."""

    def rows(*columns: str) -> Iterator[pd.DataFrame]:
        for first in range(0, len(frame), size):
            yield frame.iloc[first : first + size][[*columns] or frame.columns]

    return rows


def _joined(parts: Iterator[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(columns=columns), *parts], ignore_index=True)
