"""Data that are too few are refused before any training, with a remedy that works."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

from corgi_core.config import Preset, preset_named
from corgi_core.data import trainable
from corgi_core.data.splits import Splits
from corgi_core.data.trainable import check_trainable
from corgi_core.errors import CorgiError
from corgi_core.metrics.precision_recall import NEIGHBOURS

EMOJI = preset_named("emoji-small")


def manifest(count: int, fraction: float, captioned: int | None = None) -> pd.DataFrame:
    """So many images of their own groups, split by hash; the first ones have captions."""
    rows = [
        {"key": f"{n}", "group": f"{n}", "split": None,
         "captions": [f"caption {n}"] if captioned is None or n < captioned else None}
        for n in range(count)
    ]  # fmt: skip
    groups, given = [row["group"] for row in rows], [None] * count
    splits = Splits(fraction, EMOJI.seed)
    splits.note(groups, given)
    return pd.DataFrame(rows).assign(split=splits.decide(groups, given))


def with_fraction(fraction: float) -> Preset:
    return replace(EMOJI, data=replace(EMOJI.data, test_fraction=fraction))


def test_a_picture_of_the_evaluation_needs_neighbours():
    assert trainable.MIN_HELD_OUT_PICTURES == NEIGHBOURS + 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_so_few_images_are_refused_whatever_the_share(count: int) -> None:
    with pytest.raises(CorgiError, match="bring at least 6 different images"):
        check_trainable(manifest(count, 0.1), with_fraction(0.1))


@pytest.mark.parametrize("count", [6, 7, 8, 12, 20, 33])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1])
def test_the_share_that_is_proposed_suffices(count: int, fraction: float) -> None:
    with pytest.raises(CorgiError, match=r"data\.test_fraction=") as error:
        check_trainable(manifest(count, fraction), with_fraction(fraction))
    proposed = float(re.findall(r"test_fraction=([\d.]+)", error.value.remedy)[0].rstrip("."))
    assert 0 < proposed < 1
    check_trainable(manifest(count, proposed), with_fraction(proposed))


def test_only_captioned_images_count() -> None:
    few = manifest(200, 0.1, captioned=5)
    with pytest.raises(CorgiError, match="at least 6 different images with captions"):
        check_trainable(few, with_fraction(0.1))
    check_trainable(manifest(200, 0.1), with_fraction(0.1))


def test_a_split_of_the_datas_own_is_not_changed_by_a_share() -> None:
    own = manifest(100, 0.1).assign(split=["test"] * 3 + ["train"] * 97)
    with pytest.raises(CorgiError, match="for both, train and test"):
        check_trainable(own, with_fraction(0.1))


def test_without_captions_only_a_decoder_is_trained() -> None:
    silent = manifest(40, 0.1, captioned=0)
    with pytest.raises(CorgiError, match="none of the 40 images has a caption"):
        check_trainable(silent, EMOJI)
    pretrained = replace(EMOJI.encoders, clip=("ViT-B-32/openai",), training=None)
    check_trainable(silent, replace(EMOJI, encoders=pretrained))
