"""Whether a dataset has the images and captions that a preset's trainings and evaluation need.

Asked when data are ingested and again before anything is trained, so that no training is in vain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import pairwise

import pandas as pd

from corgi_core.config import Preset
from corgi_core.data.dataset import Rows
from corgi_core.data.splits import share_of
from corgi_core.errors import CorgiError

MIN_TRAINING = 2  # captioned training images: Gaussians have a variance
MIN_HELD_OUT = 2  # captioned held-out images: retrieval and the Fréchet distance compare
MIN_HELD_OUT_PICTURES = 4  # where pictures are decoded: each has three nearest neighbours
LOWEST = 20_000  # groups that are remembered, to find a share that holds out enough
STRAYS = 2  # groups in another split than by their hash: each split gets one group, whatever it is


def check_trainable(rows: Rows, preset: Preset) -> None:
    """Raise CorgiError where the data are too few for the preset, with a remedy that works.

    Args:
        rows: The dataset's `iter_rows`, of which no more is read than shows that it is enough.
        preset: Decides whether pictures are decoded, and how images were split.
    """
    needed = MIN_HELD_OUT_PICTURES if preset.decoders else MIN_HELD_OUT
    found = _Captioned(preset.seed, preset.data.test_fraction)
    for part in rows("captions", "split", "group"):
        found.add(part)
        if found.training >= MIN_TRAINING and found.held_out >= needed:
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
        f"{found.training} training images and {found.held_out} held-out images have captions, and "
        f"the preset {preset.name} needs {MIN_TRAINING} and {needed}"
    )
    if len(found.strays) > STRAYS:  # the data's own folders chose
        raise CorgiError(problem, "bring more images with captions for both, train and test")
    fraction = found.working_fraction(needed)
    if fraction is None:
        raise CorgiError(
            problem, f"bring at least {MIN_TRAINING + needed} different images with captions"
        )
    raise CorgiError(
        problem,
        "bring more images with captions, or ingest again with "
        f"--replace --set data.test_fraction={fraction:g}",
    )


@dataclass
class _Captioned:
    """What is known of the captioned images: counts, and the groups whose hashes are lowest."""

    seed: int
    test_fraction: float
    images: int = 0  # with captions or without
    captioned: int = 0
    training: int = 0
    held_out: int = 0
    strays: set[str] = field(default_factory=set)  # groups not in the split that `Splits` gives
    _sizes: dict[tuple[float, str], int] = field(default_factory=dict)  # by share and group

    def add(self, rows: pd.DataFrame) -> None:
        """Take in some rows."""
        captioned = rows[rows["captions"].map(bool)]
        self.images += len(rows)
        self.captioned += len(captioned)
        self.training += int((captioned["split"] == "train").sum())
        self.held_out += int((captioned["split"] == "test").sum())
        groups = captioned.groupby("group")["split"].agg(["first", "size"])
        for group, split, size in groups.itertuples():
            share = share_of(str(group), self.seed)
            hashed = "test" if share < self.test_fraction else "train"
            if split != hashed and len(self.strays) <= STRAYS:
                self.strays.add(str(group))
            self._sizes[share, str(group)] = self._sizes.get((share, str(group)), 0) + size
        if len(self._sizes) > 2 * LOWEST:
            self._sizes = dict(self._lowest())

    def _lowest(self) -> list[tuple[tuple[float, str], int]]:
        return nsmallest(LOWEST, self._sizes.items())

    def working_fraction(self, needed: int) -> float | None:
        """The roundest share that holds out enough images and leaves enough to train on, if any."""
        held_out = 0
        for ((share, _), size), ((following, _), _) in pairwise(self._lowest()):
            held_out += size
            if held_out >= needed and self.captioned - held_out >= MIN_TRAINING:
                for decimals in range(1, 5):
                    fraction: float = math.floor(following * 10**decimals) / 10**decimals
                    if share < fraction:
                        return fraction
        return None
