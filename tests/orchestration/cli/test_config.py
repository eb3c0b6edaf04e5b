"""`corgi config`: what is set and by what, and how large the models are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from corgi_core.config import preset_named
from orchestration.cli.app import cli
from orchestration.settings import Settings


@pytest.fixture
def corgi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORGI_STUDY__GUIDED_STEPS", "8")
    monkeypatch.setenv("COLUMNS", "140")
    (tmp_path / "my.yaml").write_text("extends: emoji-small\nprior: {layers: 5}\n")

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, ["config", *words], catch_exceptions=False)

    return run


def test_show_names_the_origin_of_every_value(corgi) -> None:
    lines = corgi("show", "--config", "my.yaml", "--set", "seed=3").output.splitlines()
    printed = {line.split("  # ")[0].strip(): line.rpartition("# ")[2] for line in lines}
    assert printed["layers: 5"] == "my.yaml"
    assert printed["guided_steps: 8"] == "CORGI_STUDY__GUIDED_STEPS"
    assert printed["seed: 3"] == "--set"
    assert printed["width: 64"] == "preset emoji-small"
    assert printed["heads: 4"] == "preset emoji"


def test_what_show_prints_can_be_read_again(corgi, tmp_path: Path) -> None:
    changes = ("--set", "variants=[shifted-k64]", "--set", "decoders.gan=null")
    output = corgi("show", "--config", "my.yaml", *changes).output
    (tmp_path / "whole.yaml").write_text(output)
    preset = Settings.load({}, config=tmp_path / "whole.yaml").preset
    assert (preset.variants, preset.prior.layers) == (("shifted-k64",), 5)
    assert [decoder.kind for decoder in preset.decoders] == ["pca", "cascade", "lafite"]
    assert preset.data == preset_named("emoji-small").data


def test_show_prints_json(corgi) -> None:
    entries = json.loads(corgi("show", "--config", "my.yaml", "--json").output)
    assert entries["prior.layers"] == {"value": 5, "origin": "my.yaml"}
    assert entries["decoders.cascade.stages"]["value"][0]["size"] == 16


def test_check_sizes_every_model_without_weights(corgi) -> None:
    changes = (
        "clip=[ViT-B-32/openai]",
        "decoders={cascade: null, gan: null, lafite: null}",
        "workers=2",
    )
    options = [word for change in changes for word in ("--set", change)]
    output = corgi("check", "--config", "my.yaml", *options, "--device-flops", "2e12").output
    memory, time = (table_in(part) for part in output.split("Time, computed"))
    assert memory["CLIP ViT-B-32/openai"][0] == "151,277,313"  # as CLIP's paper has it
    assert {"text encoder minilm", "prior", "decoder pca"} < memory.keys() == time.keys()
    assert memory["prior"][3] == "16"  # of the batch of 32 on one of two GPUs
    batch, tflop, steps, per_second, days = time["prior"]
    assert (batch, steps) == ("32", "120")
    assert float(per_second.replace(",", "")) == pytest.approx(32 * 4 / float(tflop), rel=0.01)
    assert float(days) == pytest.approx(120 * float(tflop) / 4 / 86_400, rel=0.06)
    assert "for 2 worker(s) on 2 GPU(s) that do 2 TFLOP/s each" in output
    assert "nothing was measured" in output
    assert "corgi run trains 9 × prior, 1 × decoder pca" in output
    assert "A caption has 14.3 tokens on average (of captions like COCO's)" in output
    assert "its tokens are stored: 10,990 bytes, 11 GB for 1,000,000 captions." in output
    assert "its pixels are stored: 3,072 bytes, 3.07 GB for 1,000,000 images." in output
    assert "are valid" in output


def table_in(output: str) -> dict[str, list[str]]:
    """The cells of a table's rows by their first."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {first: cells for first, *cells in lines if len(cells) >= 5 and first != "model"}


def test_check_takes_one_preset(corgi) -> None:
    done = corgi("check", "emoji", "--preset", "emoji-small")
    assert done.exit_code != 0
    assert "emoji and --preset emoji-small are two presets" in done.output
