"""Data that are too few are refused before any training, with a remedy that works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest

from corgi_core.config import Preset, preset_named
from corgi_core.data import trainable
from corgi_core.data.splits import Splits
from corgi_core.data.trainable import check_trainable
from corgi_core.errors import CorgiError
from corgi_core.metrics.precision_recall import NEIGHBOURS
from tests.helpers.whole import in_parts

EMOJI = preset_named("emoji-small")


def manifest(
    count: int, fraction: float, captioned: int | None = None, validation: float = 0.05
) -> pd.DataFrame:
    """So many images of their own groups, split by hash; the first ones have captions."""
    rows = [
        {"key": f"{n}", "group": f"{n}", "split": None,
         "captions": [f"caption {n}"] if captioned is None or n < captioned else None}
        for n in range(count)
    ]  # fmt: skip
    groups, given = [row["group"] for row in rows], [None] * count
    splits = Splits(fraction, validation, EMOJI.seed)
    splits.note(groups, given)
    return pd.DataFrame(rows).assign(split=splits.decide(groups, given))


def with_fraction(fraction: float, validation: float = 0.05) -> Preset:
    data = replace(EMOJI.data, test_fraction=fraction, validation_fraction=validation)
    return replace(EMOJI, data=data)


def test_a_picture_of_the_evaluation_needs_neighbours():
    assert trainable.MIN_TEST_PICTURES == NEIGHBOURS + 1


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_so_few_images_are_refused_whatever_the_share(count: int) -> None:
    with pytest.raises(CorgiError, match="bring at least 8 different images"):
        check_trainable(in_parts(manifest(count, 0.1), 3), with_fraction(0.1))


@pytest.mark.parametrize("count", [8, 9, 12, 20, 33])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1])
def test_the_share_that_is_proposed_suffices(count: int, fraction: float) -> None:
    with pytest.raises(CorgiError, match=r"data\.test_fraction=") as error:
        check_trainable(in_parts(manifest(count, fraction), 3), with_fraction(fraction))
    tested, validated = map(float, re.findall(r"_fraction=([\d.]+)", error.value.remedy))
    assert 0 < validated < tested + validated < 1
    again = manifest(count, tested, validation=validated)
    check_trainable(in_parts(again, 3), with_fraction(tested, validated))


def test_only_captioned_images_count() -> None:
    few = manifest(200, 0.1, captioned=5)
    with pytest.raises(CorgiError, match="at least 8 different images with captions"):
        check_trainable(in_parts(few, 3), with_fraction(0.1))
    check_trainable(in_parts(manifest(200, 0.1), 3), with_fraction(0.1))


def test_a_split_of_the_datas_own_is_not_changed_by_a_share() -> None:
    own = manifest(100, 0.1).assign(split=["test"] * 3 + ["validation"] * 2 + ["train"] * 95)
    with pytest.raises(CorgiError, match="for train, validation and test"):
        check_trainable(in_parts(own, 3), with_fraction(0.1))


def test_data_of_an_older_version_are_to_be_ingested_again() -> None:
    older = manifest(200, 0.1)
    older["split"] = older["split"].replace("validation", "train")
    with pytest.raises(CorgiError, match="no image is for validation") as error:
        check_trainable(in_parts(older, 50), with_fraction(0.1))
    assert "--replace" in error.value.remedy


def test_without_captions_only_a_decoder_is_trained() -> None:
    silent = manifest(40, 0.1, captioned=0)
    with pytest.raises(CorgiError, match="none of the 40 images has a caption"):
        check_trainable(in_parts(silent, 3), EMOJI)
    pretrained = replace(EMOJI.encoders, clip=("ViT-B-32/openai",), training=None)
    check_trainable(in_parts(silent, 3), replace(EMOJI, encoders=pretrained))


def test_no_more_is_read_than_shows_that_it_is_enough() -> None:
    read = 0

    def rows(*columns: str) -> Iterator[pd.DataFrame]:
        nonlocal read
        for part in in_parts(manifest(2000, 0.1), 50)(*columns):
            read += len(part)
            yield part

    check_trainable(rows, with_fraction(0.1))
    assert read <= 250


def test_of_many_groups_those_with_the_lowest_hashes_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Groups that are forgotten, and come again, do not change the share that is proposed."""
    rows = pd.concat([manifest(300, 0.001)] * 2).assign(split="train")
    whole = _proposed(rows)
    monkeypatch.setattr(trainable, "LOWEST", 20)
    assert _proposed(rows) == whole


def _proposed(rows: pd.DataFrame) -> str:
    with pytest.raises(CorgiError) as error:
        check_trainable(in_parts(rows, 7), with_fraction(0.001, 0.001))
    assert "test_fraction=" in error.value.remedy
    return error.value.remedy
