"""Whether a dataset has the images and captions that a preset's trainings and evaluation need.

Asked when data are ingested and again before anything is trained, so that no training is in vain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import NamedTuple

import pandas as pd

from corgi_core.config import Preset
from corgi_core.data.dataset import Rows
from corgi_core.data.splits import SPLITS, TEST, TRAIN, VALIDATION, share_of, split_by_hash
from corgi_core.errors import CorgiError

MIN_TRAINING = 2  # captioned training images: Gaussians have a variance
MIN_VALIDATION = 2  # captioned validation images: retrieval compares
MIN_TEST = 2  # captioned test images: retrieval and the Fréchet distance compare
MIN_TEST_PICTURES = 4  # where pictures are decoded: each has three nearest neighbours
LOWEST = 20_000  # groups that are remembered, to find a share that holds out enough
# groups in another split than by their hash: each split gets one group, whatever it is
STRAYS = len(SPLITS)


def check_trainable(rows: Rows, preset: Preset) -> None:
    """Raise CorgiError where the data are too few for the preset, with a remedy that works.

    Args:
        rows: The dataset's `iter_rows`, of which no more is read than shows that it is enough.
        preset: Decides whether pictures are decoded, and how images were split.
    """
    needed = {TRAIN: MIN_TRAINING, VALIDATION: MIN_VALIDATION, TEST: MIN_TEST}
    if preset.decoders:
        needed[TEST] = MIN_TEST_PICTURES
    fractions = preset.data.test_fraction, preset.data.validation_fraction
    found = _Captioned(preset.seed, fractions)
    for part in rows("captions", "split", "group"):
        found.add(part)
        if all(found.splits[split] >= count for split, count in needed.items()):
            return
    if not found.captioned:
        if preset.decoders and "trained" not in preset.encoders.clip:
            return  # a decoder needs no captions, where the encoders are not trained on them
        raise CorgiError(
            f"none of the {found.images:,} images has a caption, and the preset {preset.name} is "
            "trained on captions",
            "add captions (see `corgi ingest --help` for layouts) and ingest again with --replace",
        )
    problem = (
        f"{_listed(found.splits)} images have captions, and the preset {preset.name} needs "
        f"{_listed(needed)}"
    )
    # ingested by an older version, or split by their owner and the gate refused the few that were
    if len(found.strays) > STRAYS and not found.validation:
        raise CorgiError(
            f"{problem}: no image is for validation",
            "ingest the data again with --replace, so that a part of them is; if the gate has "
            "refused that part, with a larger data.validation_fraction",
        )
    if len(found.strays) > STRAYS:  # the data's own folders chose
        raise CorgiError(problem, "bring more images with captions for train, validation and test")
    working = found.working_fractions(needed)
    if working is None:
        raise CorgiError(
            problem, f"bring at least {sum(needed.values())} different images with captions"
        )
    raise CorgiError(
        problem,
        "bring more images with captions, or ingest again with "
        f"--replace --set data.test_fraction={working[0]:g} "
        f"--set data.validation_fraction={working[1]:g}",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[split]} {split}" for split in SPLITS)


@dataclass
class _Captioned:
    """What is known of the captioned images: counts, and the groups whose hashes are lowest."""

    seed: int
    fractions: tuple[float, float]  # for testing and for validation
    images: int = 0  # with captions or without
    validation: int = 0  # those for validation, likewise
    captioned: int = 0
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    strays: set[str] = field(default_factory=set)  # groups not in the split that `Splits` gives
    _sizes: dict[tuple[float, str], int] = field(default_factory=dict)  # by share and group

    def add(self, rows: pd.DataFrame) -> None:
        """Take in some rows."""
        captioned = rows[rows["captions"].map(bool)]
        self.images += len(rows)
        self.validation += int((rows["split"] == VALIDATION).sum())
        self.captioned += len(captioned)
        for split in SPLITS:
            self.splits[split] += int((captioned["split"] == split).sum())
        groups = captioned.groupby("group")["split"].agg(["first", "size"])
        for group, split, size in groups.itertuples():
            share = share_of(str(group), self.seed)
            if split != split_by_hash(share, *self.fractions) and len(self.strays) <= STRAYS:
                self.strays.add(str(group))
            self._sizes[share, str(group)] = self._sizes.get((share, str(group)), 0) + size
        if len(self._sizes) > 2 * LOWEST:
            self._sizes = dict(self._lowest())

    def _lowest(self) -> list[tuple[tuple[float, str], int]]:
        return nsmallest(LOWEST, self._sizes.items())

    def working_fractions(self, needed: Mapping[str, int]) -> tuple[float, float] | None:
        """The roundest shares for testing and validation that give each split enough, if any."""
        lowest = self._lowest()
        tested = _boundary(lowest, 0, needed[TEST])
        if tested is None:
            return None
        validated = _boundary(lowest, tested.groups, needed[VALIDATION])
        if validated is None:
            return None
        if self.captioned - tested.images - validated.images < needed[TRAIN]:
            return None
        return tested.share, round(validated.share - tested.share, 4)


class _Boundary(NamedTuple):
    """Where a split ends."""

    share: float
    groups: int  # before it
    images: int  # of the split


def _boundary(
    ranked: Sequence[tuple[tuple[float, str], int]], first: int, needed: int
) -> _Boundary | None:
    """The roundest share below which so many images are, from the group `first` on."""
    images = 0
    for at in range(first, len(ranked) - 1):
        ((share, _), size), ((following, _), _) = ranked[at], ranked[at + 1]
        images += size
        if images >= needed:
            for decimals in range(1, 5):
                rounded = math.floor(following * 10**decimals) / 10**decimals
                if share < rounded:
                    return _Boundary(rounded, at + 1, images)
    return None
