"""Whether a dataset has the images and captions that a preset's trainings and evaluation need.

Asked when data are ingested and again before anything is trained, so that no training is in vain.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pandas as pd

from corgi_core.config import Preset
from corgi_core.data.splits import share_of
from corgi_core.errors import CorgiError

MIN_TRAINING = 2  # captioned training images: Gaussians have a variance
MIN_HELD_OUT = 2  # captioned held-out images: retrieval and the Fréchet distance compare
MIN_HELD_OUT_PICTURES = 4  # where pictures are decoded: each has three nearest neighbours


def check_trainable(manifest: pd.DataFrame, preset: Preset) -> None:
    """Raise CorgiError where the data are too few for the preset, with a remedy that works.

    Args:
        manifest: A dataset's, columns as in `dataset.MANIFEST`.
        preset: Decides whether pictures are decoded, and how images were split.
    """
    captioned = manifest[manifest["captions"].map(bool)]
    training = captioned[captioned["split"] == "train"]
    held_out = captioned[captioned["split"] == "test"]
    needed = MIN_HELD_OUT_PICTURES if preset.decoders else MIN_HELD_OUT
    if captioned.empty:
        if preset.decoders and "trained" not in preset.encoders.clip:
            return  # a decoder needs no captions, where the encoders are not trained on them
        raise CorgiError(
            f"none of the {len(manifest):,} images has a caption, and the preset {preset.name} is "
            "trained on captions",
            "add captions (see `corgi ingest --help` for layouts) and ingest again with --replace",
        )
    if len(training) >= MIN_TRAINING and len(held_out) >= needed:
        return
    problem = (
        f"{len(training)} training images and {len(held_out)} held-out images have captions, and "
        f"the preset {preset.name} needs {MIN_TRAINING} and {needed}"
    )
    if not _split_by_hash(captioned, preset):
        raise CorgiError(problem, "bring more images with captions for both, train and test")
    fraction = _working_fraction(captioned, needed, preset.seed)
    if fraction is None:
        raise CorgiError(
            problem, f"bring at least {MIN_TRAINING + needed} different images with captions"
        )
    raise CorgiError(
        problem,
        "bring more images with captions, or ingest again with "
        f"--replace --set data.test_fraction={fraction:g}",
    )


def _split_by_hash(captioned: pd.DataFrame, preset: Preset) -> bool:
    """Whether `Splits` chose by the group's hash, and not the data's own folders."""
    splits = captioned.groupby("group")["split"].first()
    hashed = [
        share_of(str(group), preset.seed) < preset.data.test_fraction for group in splits.index
    ]
    strays = sum(ours != (split == "test") for ours, split in zip(hashed, splits, strict=True))
    return bool(strays <= 2)  # each split gets one group, whatever its hash


def _working_fraction(captioned: pd.DataFrame, needed: int, seed: int) -> float | None:
    """The roundest share that holds out enough images and leaves enough to train on, or None."""
    sizes = captioned.groupby("group").size()
    shares = sorted((share_of(str(group), seed), int(size)) for group, size in sizes.items())
    held_out = 0
    for (share, size), (following, _) in pairwise(shares):
        held_out += size
        if held_out >= needed and len(captioned) - held_out >= MIN_TRAINING:
            for decimals in range(1, 5):
                fraction: float = math.floor(following * 10**decimals) / 10**decimals
                if share < fraction:
                    return fraction
    return None
