"""The model that comes with the package is small, whole, and paints what its captions say."""

from __future__ import annotations

import json

import pytest

from corgi_core import CorgiPipeline
from corgi_core.io.released import released_folder

LARGEST = 40_000_000  # bytes
COLOURS = {  # channels of what the model knows
    "a tomato": 0, "red circle": 0, "four leaf clover": 1, "green circle": 1, "droplet": 2,
    "blue circle": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> CorgiPipeline:
    folder = released_folder()
    assert folder is not None
    return CorgiPipeline.from_pretrained(folder)


def test_it_is_no_larger_than_agreed_and_has_a_card_with_baselines() -> None:
    folder = released_folder()
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= LARGEST
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert sum(card["data"]["sources"].values()) == card["data"]["images"] > 5000
    assert all("(" in source for source in card["data"]["sources"])  # the licence
    for table in ("priors", "pictures"):
        assert {"nearest training image", "linear prior", "real against real"} <= set(card[table])
    assert "shifted-text" in (folder / "README.md").read_text(encoding="utf-8")


def test_pictures_have_the_colours_of_what_their_captions_name(shipped: CorgiPipeline) -> None:
    """A thing's own colour is the strongest in the middle of its picture."""
    images = shipped.text_to_image(list(COLOURS), output_type="pt")
    middles = images[:, :, 24:40, 24:40].mean(dim=(2, 3))
    assert middles.argmax(dim=1).tolist() == list(COLOURS.values())
