"""A table of proposals is filled in, and ingested beside the images whose captions it has."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from corgi_core.config import DataSettings
from corgi_core.data.caption_choice import COVERAGE, RANDOM, UNCERTAINTY, Candidates, Choice
from corgi_core.data.caption_proposals import FILE, CaptionProposals
from corgi_core.data.dataset import Dataset
from corgi_core.data.image_splits import ImageSplits
from corgi_core.data.ingest import ingest, iter_skipped
from corgi_core.data.keys import TrainingKeys
from corgi_core.data.quality import gate
from corgi_core.errors import CorgiError
from tests.helpers.tiny_pipeline import png

NAMES = [*(f"{number}.png" for number in range(6)), "cats/my.cat.png", "cats/6.png"]


def proposed(keys: list[str], rule: str = COVERAGE) -> CaptionProposals:
    """A proposal of each of these keys."""
    n = len(keys)
    nothing = np.zeros((n, 2), np.float32), np.zeros(n, np.float32)
    choices = [Choice(row, 0.25, 0.5) for row in range(n)]
    return CaptionProposals.of(Candidates(np.array(keys), *nothing), choices, rule)


def test_what_was_filled_in_is_a_caption_and_nothing_else_changes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (photos / name).parent.mkdir(exist_ok=True, parents=True)
        (photos / name).write_bytes(png(number))
    settings = DataSettings(test_fraction=0.2, validation_fraction=0.2)

    def ingested() -> Dataset:
        """The photos as they are now, behind the gate."""
        raw = ingest("imagefolder", str(photos), tmp_path / "raw", settings, 0, replaced=True)
        assert sum(map(len, iter_skipped(raw))) == 0
        return gate(raw, tmp_path / "images", settings)

    before = ingested()
    splits, without = ImageSplits.of(before), TrainingKeys(before, captioned=False)
    keys = [key for shard in before.shards for key in without.keys(shard).tolist()]
    assert "cats/my_cat" in keys
    proposals = proposed(keys)
    proposals.save(tmp_path / "proposals")

    with (tmp_path / "proposals" / FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows.reverse()
    for row in rows[:-1]:  # the last stays empty
        row["text"] = f'a "picture", {row["file_name"]}'
    with (photos / FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    after = ingested()
    found = {
        row["key"]: None if row["captions"] is None else list(row["captions"])
        for row in after.rows(after.shards[0], "key", "captions").to_dict("records")
    }
    expected = {key: [f'a "picture", {key}'] for key in keys[1:]}
    assert found == {key: expected.get(key) for key in found}
    assert ImageSplits.of(after) == splits  # so no decoder is out of date
    assert TrainingKeys(after, captioned=False).count == 1


def test_the_table_says_why(tmp_path: Path) -> None:
    said = {
        rule: proposed(["a"], rule).proposals[0].reason for rule in (COVERAGE, UNCERTAINTY, RANDOM)
    }
    assert "with a caption, or above, has a cosine of 0.25" in said[COVERAGE]
    assert "the prior's nearest sample has a cosine of 0.50" in said[UNCERTAINTY]
    assert said[RANDOM] == "chosen at random"


def test_they_are_stored_and_found_missing(tmp_path: Path) -> None:
    proposals = proposed(["a,b", 'c"d'])
    proposals.save(tmp_path / "here")
    assert CaptionProposals.load(tmp_path / "here") == proposals
    assert proposals.digest != proposed(["a,b"]).digest
    with pytest.raises(CorgiError, match="no proposals of images to caption"):
        CaptionProposals.load(tmp_path / "nowhere")
