"""What a reader finds at a path: its samples by key, and what it passes over by path."""

from __future__ import annotations

from upath import UPath

from corgi_core.data.formats import READERS, Sample, Skipped


def reading(
    format: str, path: UPath, caption_column: str | None = None
) -> tuple[dict[str, Sample], dict[str, Skipped]]:
    """The samples by key, and what was passed over by path; no key and no path is there twice."""
    found = list(READERS[format](path, caption_column))
    samples = {each.key: each for each in found if isinstance(each, Sample)}
    skipped = {each.path: each for each in found if isinstance(each, Skipped)}
    assert len(samples) + len(skipped) == len(found)
    return samples, skipped


def reasons(skipped: dict[str, Skipped]) -> dict[str, str]:
    return {path: each.reason for path, each in skipped.items()}
