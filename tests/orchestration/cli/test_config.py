"""`corgi config`: what is set and by what, and how large the models are."""

from __future__ import annotations

import json
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
    done = corgi("check", "--config", "my.yaml", "--set", "clip=[ViT-B-32/openai]")
    rows = {
        cells[1].strip(): cells[2].strip()
        for line in done.output.splitlines()
        if len(cells := line.replace("┃", "│").split("│")) > 2
    }
    assert rows["CLIP ViT-B-32/openai"] == "151,277,313"  # as the paper's table of CLIP has it
    assert {"text encoder minilm", "prior", "decoder pca", "decoder gan"} < rows.keys()
    assert "are valid" in done.output
