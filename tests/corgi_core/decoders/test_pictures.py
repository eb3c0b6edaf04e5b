"""Grids put every picture where it belongs; PNG files are whole and say how they were made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corgi_core.errors import CorgiError
from corgi_core.io.pictures import MARGIN, grid, labelled_grid, picture, save_gif, save_png


def plain(*colours: tuple[float, float, float], side: int = 8) -> np.ndarray:
    return np.stack([np.broadcast_to(np.array(c)[:, None, None], (3, side, side)) for c in colours])


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_grid_is_filled_row_by_row() -> None:
    sheet = np.asarray(grid(plain(RED, GREEN, BLUE), columns=2))
    step = 8 + MARGIN
    assert sheet.shape == (2 * step + MARGIN, 2 * step + MARGIN, 3)
    corner = [tuple(sheet[MARGIN + r * step, MARGIN + c * step]) for r in (0, 1) for c in (0, 1)]
    assert corner == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_grid_clamps_values_and_refuses_nothing_to_show() -> None:
    assert np.asarray(grid(plain((2.0, -1.0, 0.5)), columns=9))[MARGIN, MARGIN].tolist() == [
        255, 0, 128,
    ]  # fmt: skip
    with pytest.raises(CorgiError, match="0 pictures"):
        grid(np.zeros((0, 3, 8, 8)), columns=2)


def test_labelled_grid_shows_every_column_enlarged_beside_its_caption() -> None:
    long = "a very long caption that does not fit on one line " * 9
    sheet = labelled_grid(
        [long, "short"], {"real": plain(RED, GREEN), "a rather long heading": plain(BLUE, RED)}
    )
    pixels = np.asarray(sheet).reshape(-1, 3)
    area = {name: int((pixels == np.array(c) * 255).all(axis=1).sum()) for name, c in
            (("red", RED), ("green", GREEN), ("blue", BLUE))}  # fmt: skip
    assert area == {"red": 2 * 96**2, "green": 96**2, "blue": 96**2}
    captions = np.asarray(sheet)[:, : sheet.width - 2 * (96 + MARGIN)]
    assert (captions.min(axis=2) < 100).any()  # ink


def test_labelled_grid_refuses_columns_of_another_length() -> None:
    with pytest.raises(CorgiError, match="'real' has 2 pictures for 1 captions"):
        labelled_grid(["one"], {"real": plain(RED, GREEN)})


def test_png_carries_its_settings_and_replaces_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "out" / "apple.png"
    for seed in (1, 2):
        save_png(grid(plain(RED), 1), path, {"prompt": "ein grüner Apfel 🍏", "seed": seed})
    with Image.open(path) as read:
        assert json.loads(read.text["corgi"]) == {"prompt": "ein grüner Apfel 🍏", "seed": 2}
    assert [p.name for p in path.parent.iterdir()] == ["apple.png"]


def test_gif_goes_there_and_back_and_carries_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "out" / "way.gif"
    colours = (RED, GREEN, BLUE)
    settings = {"captions": ["ein grüner Apfel 🍏", "x" * 5000], "seed": 2}
    save_gif([picture(pixels) for pixels in plain(*colours)], path, settings)
    with Image.open(path) as read:
        assert json.loads(read.info["comment"]) == settings
        assert read.info["loop"] == 0
        assert read.n_frames == 4
        for number, colour in enumerate((RED, GREEN, BLUE, GREEN)):
            read.seek(number)
            pixels = np.asarray(read.convert("RGB"))
            assert (pixels == np.array(colour) * 255).all()
    assert [p.name for p in path.parent.iterdir()] == ["way.gif"]


def test_gif_of_one_or_no_frame(tmp_path: Path) -> None:
    save_gif([picture(plain(RED)[0])], tmp_path / "one.gif", {"seed": 1})
    with Image.open(tmp_path / "one.gif") as read:
        assert read.n_frames == 1
        assert json.loads(read.info["comment"]) == {"seed": 1}
    with pytest.raises(CorgiError, match="no frames"):
        save_gif([], tmp_path / "none.gif", {})
    assert not (tmp_path / "none.gif").exists()
