"""A suite's pictures: each the pipeline's own, made once, and on pages by category."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corgi_core.errors import CorgiError
from corgi_core.pipeline import CorgiPipeline
from corgi_core.suites.folder import SuiteFolder
from corgi_core.suites.gallery import write_gallery
from corgi_core.suites.models import ModelSource
from corgi_core.suites.pictures import make_pictures
from corgi_core.suites.prompts import Prompt, PromptSuite

SUITE = PromptSuite(
    "small",
    (
        Prompt(1, "a <red> apple", "Food & drink", "Basic"),
        Prompt(2, "a cat", "Animals"),
        Prompt(3, "תפוח", "Food & drink"),
    ),
)
SEEDS = (5, 6)


@pytest.fixture(scope="module")
def folder(pipeline: CorgiPipeline, tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    folder = SuiteFolder.create(tmp_path_factory.mktemp("suite"), SUITE)
    assert make_pictures(folder, "tiny", pipeline, SEEDS, num_steps=1) == 6
    return folder


def test_a_picture_is_that_of_its_prompt_and_seed(
    folder: SuiteFolder, pipeline: CorgiPipeline
) -> None:
    image = Image.open(folder.picture("tiny", 2, 6))
    (alone,) = pipeline.text_to_image("a cat", num_steps=1, seed=6)
    difference = np.asarray(image, dtype=int) - np.asarray(alone, dtype=int)
    assert abs(difference).max() <= 1  # rounding in another batch
    about = json.loads(image.text["corgi"])
    assert (about["captions"], about["seed"], about["steps"]) == (["a cat"], 6, 1)
    assert about["decoder"] == pipeline.decoder.digest
    assert about["precision"] == "auto"


def test_only_what_is_missing_is_made(folder: SuiteFolder, pipeline: CorgiPipeline) -> None:
    removed, other = folder.picture("tiny", 3, 5), folder.picture("tiny", 1, 5)
    before, time = removed.read_bytes(), other.stat().st_mtime_ns
    removed.unlink()
    assert make_pictures(folder, "tiny", pipeline, SEEDS, num_steps=1) == 1
    assert other.stat().st_mtime_ns == time
    old, new = (np.asarray(Image.open(BytesIO(b)), int) for b in (before, removed.read_bytes()))
    assert abs(old - new).max() <= 1
    with pytest.raises(CorgiError, match="made with another steps"):
        make_pictures(folder, "tiny", pipeline, SEEDS, num_steps=2)
    with pytest.raises(CorgiError, match="cannot be a model's name"):
        make_pictures(folder, "../tiny", pipeline, SEEDS)


def test_pictures_of_another_precision_are_others(
    folder: SuiteFolder, pipeline: CorgiPipeline
) -> None:
    pipeline.to("cpu", "fp32")
    try:
        with pytest.raises(CorgiError, match="made with another precision"):
            make_pictures(folder, "tiny", pipeline, SEEDS, num_steps=1)
    finally:
        pipeline.to("cpu")


def test_a_file_with_another_name_is_no_picture_of_a_seed(tmp_path: Path) -> None:
    folder = SuiteFolder.create(tmp_path, SUITE)
    for name in ("0000", "7", "007", "٣", "x"):
        (tmp_path / "ours" / "1").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1)).save(tmp_path / "ours" / "1" / f"{name}.png")
    assert folder.seeds(["ours"], 1) == [7]


def test_a_folder_belongs_to_one_suite(folder: SuiteFolder) -> None:
    assert SuiteFolder.create(folder.path, SUITE).suite == SUITE
    with pytest.raises(CorgiError, match="pictures of the suite small"):
        SuiteFolder.create(folder.path, PromptSuite("small", SUITE.prompts[:2]))
    with pytest.raises(CorgiError, match="holds no prompt suite"):
        SuiteFolder.load(folder.path / "tiny")


def test_pages_show_the_models_of_a_category_side_by_side(
    folder: SuiteFolder, tmp_path: Path
) -> None:
    theirs = SuiteFolder.create(tmp_path, SUITE)
    for model, number, seed in (("ours", 1, 5), ("ours", 1, 6), ("theirs", 1, 5)):
        path = theirs.picture(model, number, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (600, 300), "red").save(path)
    index = write_gallery(theirs, SEEDS)
    pages = re.findall(r'href="([^"]+)"', index.read_text())
    assert pages == ["category-01-food-drink.html", "category-02-animals.html"]
    page = (tmp_path / pages[0]).read_text()
    assert "a &lt;red&gt; apple" in page
    assert "<red>" not in page
    assert "a cat" not in page
    assert re.findall(r"<figcaption>(\w+)", page) == ["ours", "theirs"] * 2
    assert page.count(">missing<") == 5
    assert not re.search(r'(src|href)="(?!data:|index\.html)', page)  # nothing is loaded
    found = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    assert [Image.open(BytesIO(content)).size for content in found] == [(160, 80)] * 3


@pytest.mark.parametrize("text", ["", "a=", "a=emoji,color=red", "a=emoji,prior="])
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(CorgiError, match="names no model"):
        ModelSource.of(text)
