"""`corgi suite` by the champions of a workspace, in this process."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corgi_core.pipeline import CorgiPipeline
from corgi_core.suites.models import ModelSource
from orchestration.cli.app import cli
from tests.helpers.tiny_pipeline import register


def test_two_models_make_a_suite_in_the_workspace(
    pipeline: CorgiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(pipeline, tmp_path / ".corgi", "emoji-small")
    (tmp_path / "mine.txt").write_text("a cat\na dog\n")
    monkeypatch.setenv("CORGI_HOME", str(tmp_path / ".corgi"))
    words = ["suite", str(tmp_path / "mine.txt"), "--preset", "emoji-small", "-n", "2"]
    words += ["--steps", "1", "--model", "emoji-small", "--model", "again=emoji-small"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "again: 4 pictures made, 4 there" in done.output
    folder = tmp_path / ".corgi" / "emoji-small" / "suites" / "mine"
    assert (folder / "index.html").exists()
    made = {str(path.relative_to(folder)) for path in folder.glob("*/*/*.png")}
    names = ("emoji-small", "again")
    assert made == {f"{name}/{n}/{seed}.png" for name in names for n in (1, 2) for seed in (0, 1)}
    assert "0 pictures made" in CliRunner().invoke(cli, words).output


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("emoji-small", "several models are called emoji-small"),
        ("nobody", "nothing is registered in"),
        ("emoji-small@nobody", "no decoder with the alias 'nobody'"),
        ("./nowhere", "there is no folder nowhere"),
        ("k=emoji-small,prior=./nowhere", "there is no folder ./nowhere"),
    ],
)
def test_all_models_are_looked_for_before_one_makes_pictures(
    pipeline: CorgiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, said: str
) -> None:
    register(pipeline, tmp_path / ".corgi", "emoji-small")
    (tmp_path / "mine.txt").write_text("a cat")
    monkeypatch.setenv("CORGI_HOME", str(tmp_path / ".corgi"))
    words = ["suite", str(tmp_path / "mine.txt"), "--preset", "emoji-small", "-n", "1"]
    words += ["--model", "emoji-small", "--model", second]
    done = CliRunner().invoke(cli, words)
    assert said in " ".join((done.stdout + done.stderr).split())
    assert not list(tmp_path.rglob("*.png"))


def test_one_model_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded:
        def to(self, *_: object) -> Loaded:
            return self

    loaded: list[weakref.ref[Loaded]] = []

    def load(*_: object) -> Loaded:
        assert not any(each() for each in loaded)
        model = Loaded()
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(ModelSource, "load", load)
    monkeypatch.setattr(ModelSource, "check", lambda *_: None)
    monkeypatch.setattr("corgi_core.suites.pictures.make_pictures", lambda *_: 0)
    monkeypatch.setenv("CORGI_HOME", str(tmp_path / ".corgi"))
    (tmp_path / "mine.txt").write_text("a cat")
    words = ["suite", str(tmp_path / "mine.txt"), "--model", "a", "--model", "b", "--model", "c"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert (done.exit_code, len(loaded)) == (0, 3)
