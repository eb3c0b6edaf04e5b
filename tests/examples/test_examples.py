"""Every example runs and shows what it says; a new one needs a test here.

The notebook's code cells are executed in order by `exec`, without Jupyter, which would be a heavy
dependency for one file.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageChops

from corgi_core import CorgiPipeline
from corgi_core.evaluation.score_rows import BASELINES
from corgi_core.io.pictures import grid
from tests.helpers.tiny_pipeline import register, shippable_pipeline, write_images

EXAMPLES = Path(__file__).parents[2] / "examples"


def imported(name: str) -> ModuleType:
    """An example, run up to its `main`."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = {"sample_from_bank.py", "train_prior_on_embeddings.py", "add_a_decoder.py",
              "add_a_reader.py", "strip_of_captions.py", "corgi.ipynb", "release_a_model.py",
              "unselected_captions.py"}  # fmt: skip
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")} == tested


def test_samples_of_a_bank_are_near_their_captions(capsys: pytest.CaptureFixture[str]) -> None:
    module = imported("sample_from_bank")
    assert module.shifted > 0.9 > abs(module.standard) + 0.5
    assert "4 Gaussians of 2,000 embeddings" in capsys.readouterr().out


def test_a_prior_learns_made_embeddings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = imported("train_prior_on_embeddings")
    monkeypatch.setattr(module, "STEPS", 40)
    monkeypatch.chdir(tmp_path)
    metrics = module.main(str(module.made_table(tmp_path / "mine.parquet", images=200)))
    assert metrics["held_out_cosine"] > 0.8
    assert (tmp_path / "prior_run" / "prior_model" / "model.safetensors").is_file()


def test_a_decoder_of_ones_own_is_trained_and_loaded() -> None:
    assert imported("add_a_decoder").main() < 0.1  # of pixels in [0, 1]


def test_a_reader_of_ones_own_is_ingested(capsys: pytest.CaptureFixture[str]) -> None:
    imported("add_a_reader").main()
    assert "apple: test, captions ['a red apple', 'fruit']" in capsys.readouterr().out


def test_a_strip_holds_four_images_of_each_caption(
    pipeline: CorgiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(pipeline, tmp_path / ".corgi", "emoji")
    monkeypatch.chdir(tmp_path)
    module = imported("strip_of_captions")
    module.main("emoji", "strip.webp", "a red apple", "a car")
    with Image.open(tmp_path / "strip.webp") as strip:
        assert strip.width == 2 * module.SIDE + 3 * module.MARGIN
        assert strip.height > module.SIDE + 3 * module.MARGIN  # the captions
    images = pipeline.text_to_image("a car", num_images=4, output_type="pt")
    beside = grid(images, columns=2).resize((module.SIDE, module.SIDE), Image.Resampling.BICUBIC)
    whole = module.strip(pipeline, ["a red apple", "a car"])
    left = 2 * module.MARGIN + module.SIDE
    second = whole.crop((left, module.MARGIN, left + module.SIDE, module.MARGIN + module.SIDE))
    assert ImageChops.difference(second, beside).getextrema() <= ((0, 1),) * 3


def test_the_notebook_runs(
    pipeline: CorgiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook: dict[str, Any] = json.loads((EXAMPLES / "corgi.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    register(pipeline, tmp_path / ".corgi", "emoji")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    displayed = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            lines = "".join(cell["source"]).rstrip().split("\n")
            exec("\n".join(lines[:-1]), names)
            displayed.append(eval(lines[-1], names))
    grids = [value for value in displayed if isinstance(value, Image.Image)]
    assert len(grids) == len(displayed) - 1 == 5
    assert grids[0].height < grids[0].width  # three rows of four


def test_a_workspaces_champions_are_released_with_a_card_and_sample_unselected_captions(
    tmp_path: Path,
) -> None:
    pipeline, home, data = shippable_pipeline(), tmp_path / "home", tmp_path / "data"
    register(pipeline, home, "emoji-full.styles")
    images = write_images(data / "styles" / "images", captions=2)
    scores = {"cosine": 0.5, "cosine_ci_low": 0.4, "cosine_ci_high": 0.6}
    metrics = {
        "protocol": {"prior_steps": 4, "data_version": "v1", "encoders": ["tiny"],
                     "held_out_captions": 7, "decoded_images": 5},
        "baselines": dict.fromkeys(BASELINES, scores),
        "priors": {"baseline": {"100%": {"4": scores | {"cosine": 0.25}}}},
        "pictures": {"real embedding": {"none": {"fid": 12.5}}},
    }  # fmt: skip
    (home / "emoji-full.styles" / "reports").mkdir()
    (home / "emoji-full.styles" / "reports" / "metrics.json").write_text(json.dumps(metrics))
    out = tmp_path / "released" / "emoji-full"
    imported("release_a_model").main("emoji-full.styles", str(out), str(home), str(data))
    page, card = (out / "README.md").read_text(), json.loads((out / "card.json").read_text())
    assert "| baseline, 100% | 0.250 (0.400–0.600) |" in page
    assert page.count("0.500 (0.400–0.600)") == len(BASELINES)
    assert "| 12.500 |" in page  # it has no interval
    assert "| 12.500 |" in page  # it has no interval
    trained = [row for part in images.iter_rows("split", "captions") for row in part.itertuples()
               if row.split == "train"]  # fmt: skip
    assert card["data"]["images"] == card["data"]["sources"]["made"] == len(trained)
    assert card["data"]["captions"] == sum(len(row.captions or ()) for row in trained)
    module = imported("unselected_captions")
    captions = module.held_out_captions(images, 1)
    assert captions == ["picture number 4"]  # of 4 and 9, which are held out, 9 has none
    sheet = module.strip(CorgiPipeline.from_pretrained(out), captions)
    assert sheet.height > module.SIDE
