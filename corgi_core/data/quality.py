"""The quality gate: every image decoded once, made plain or quarantined, with key and reason.

The gated dataset's images are RGB PNGs that a training may trust; precomputed embeddings are
checked and left as they are. `<folder>/quarantine.parquet` lists what was left
out ("quarantined") and what was changed in a way worth knowing ("normalised").
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.dataset import (
    Dataset,
    read_table,
    whole_dataset,
    write_manifest,
    write_table,
)
from corgi_core.data.normalise import UnfitError, normalise
from corgi_core.data.shards import Sample, write_shards
from corgi_core.data.vectors import VECTOR, Space, read_vector
from corgi_core.errors import CorgiError
from corgi_core.progress import track

MAX_CAPTION = 2000  # characters
QUARANTINE = pa.schema([(name, pa.string()) for name in ("key", "reason", "detail", "action")])
Records = list[dict[str, str]]


def gate(raw: Dataset, folder: Path | UPath, settings: DataSettings) -> Dataset:
    """Pass `raw` through the gate into `folder`, shard by shard; whole or not at all.

    An image that cannot be decoded, has more than `settings.max_pixels`, or has the same pixels as
    an earlier one is left out; so is an embedding that is not finite, has a block of zeros, was
    made by other encoders than the first one, or repeats an earlier one. An image without a single
    good caption stays, as image-only.
    """
    records: Records = []
    with whole_dataset(folder, raw.folder) as temporary:
        samples = track(raw.samples(), "checking images", len(raw))
        rows = write_shards(temporary, _passed(samples, settings, records), settings.shard_size)
        if not rows:
            raise CorgiError(
                f"none of the {len(raw)} images in {raw.folder} is usable "
                f"({records[0]['key']}: {records[0]['reason']}, {records[0]['detail']})",
                "bring images that an ordinary viewer can open, or embeddings that are finite",
            )
        write_table(temporary / "quarantine.parquet", records, QUARANTINE)
        write_manifest(temporary, rows)
    return Dataset.load(folder)


def quarantine_of(dataset: Dataset) -> pd.DataFrame:
    """What the gate left out or changed, in the data's order: key, reason, detail, action."""
    path = dataset.folder / "quarantine.parquet"
    if not path.exists():
        raise CorgiError(
            f"{dataset.folder} has not passed the quality gate", "materialise `images`"
        )
    with path.open("rb") as file:
        return read_table(file)


def _passed(
    samples: Iterator[Sample], settings: DataSettings, records: Records
) -> Iterator[Sample]:
    first_with: dict[str, str] = {}  # SHA-256 of the plain file -> the first key that has it
    embeddings = _Embeddings()
    for sample in samples:

        def note(
            reason: str, detail: str, action: str = "quarantined", key: str = sample.key
        ) -> None:
            records.append({"key": key, "reason": reason, "detail": detail, "action": action})

        try:
            if sample.suffix == VECTOR:
                plain, changes = embeddings.checked(sample), []
            else:
                image = normalise(sample.image, settings.max_pixels, settings.max_side)
                plain, changes = replace(sample, image=image.png, suffix="png"), image.changes
        except UnfitError as unfit:
            note(unfit.reason, unfit.detail)
            continue
        first = first_with.setdefault(hashlib.sha256(plain.image).hexdigest(), sample.key)
        if first != sample.key:
            same = "numbers" if sample.suffix == VECTOR else "pixels"
            note("duplicate", f"has the same {same} as {first}")
            continue
        for change in changes:
            note(*change, action="normalised")
        captions = []
        for caption in sample.captions or []:
            if fault := fault_of(caption):
                note(fault, f"caption {caption[:80]!r} is dropped")
            else:
                captions.append(" ".join(caption.split()))
        yield replace(plain, captions=captions or None)


@dataclass
class _Embeddings:
    """Checks embeddings that came precomputed; remembers which encoders made the first one."""

    space: Space | None = None

    def checked(self, sample: Sample) -> Sample:
        """The sample as it is; UnfitError where its embedding cannot be used."""
        try:
            space, z = read_vector(sample.image)
        except CorgiError as error:
            raise UnfitError("no embedding", error.problem) from error
        self.space = self.space or space
        if space != self.space:
            raise UnfitError("other encoders", f"{space}, not {self.space}")
        if not np.isfinite(z).all():
            raise UnfitError("not finite", f"{(~np.isfinite(z)).sum()} of {z.size} numbers")
        for name, block in zip(
            space.names, np.split(z, np.cumsum(space.encoder_dims)[:-1]), strict=True
        ):
            if not block.any():
                raise UnfitError("zero vector", f"the block of {name}")
        return sample


def fault_of(caption: str) -> str | None:
    """What is wrong with a caption, or None. Readers put U+FFFD where bytes are not UTF-8."""
    if not caption.strip():
        return "empty caption"
    if "\ufffd" in caption:
        return "caption is not UTF-8"
    if len(caption) > MAX_CAPTION:
        return "caption too long"
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in caption):
        return "control characters in caption"
    return None
