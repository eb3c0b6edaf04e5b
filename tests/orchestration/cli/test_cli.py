"""The command line and the Makefile, as a newcomer meets them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.helpers import forked
from tests.helpers.protocols import a_protocol

ROOT = Path(__file__).parents[3]
COMMANDS = (
    "demo", "run", "results", "generate", "suite", "rate", "ingest", "gate", "ui", "presets",
    "promote", "rollback", "history", "drill",
)  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("CORGI_")}
    return {**outside, "COLUMNS": "100", **more}


def corgi(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`corgi` as the shell starts it."""
    return subprocess.run(
        [sys.executable, "-c", forked.CORGI, *words],
        cwd=folder, env=environment(**more), capture_output=True, text=True,
    )  # fmt: skip


def quick(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`corgi` where the libraries are loaded already."""
    return forked.run(forked.CORGI, words, environment(), folder)


def test_help_is_quick_and_names_every_command(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = corgi(tmp_path, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 1.5  # seconds of a processor; 0.4 on an idle machine
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout
    assert not list(tmp_path.iterdir())  # asking for help makes nothing


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = corgi(tmp_path, command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--preset", "nope"], "there is no preset 'nope'"),
        (["ingest", "/nowhere", "--format", "imagefolder", "--name", "n"], "/nowhere"),
        (["ingest", "/nowhere"], "--format"),
        (["ingest", ".", "--format", "tiff", "--name", "n"], "tiff"),
        (["gate", "--dataset", "n"], "raw_images"),
        (["results"], "corgi run"),
        (["generate", "a cat", "--preset", "coco"], "train the workspace"),
        (["generate", "a cat", "--out", "cat.jpg"], "cat.jpg"),
        (["generate", "a cat", "--out", "cat.gif"], "from nothing to nothing"),
        (["generate"], "0 images and 0 captions"),
        (["generate", "a cat", "a dog", "a cow"], "0 images and 3 captions"),
        (["generate", "a cat", "--weight", "0.5"], "a weight says"),
        (["generate", "a cat", "--guidance", "nan"], "between 0 and 100"),
        (["generate", "a cat", "--guidance", "1e30"], "between 0 and 100"),
        (["generate", "caf\udce9"], "not UTF-8"),
        (["generate", "a cat", "--out", f"{__file__}/x.png"], "cannot be written"),
        (["generate", "a cat", "--out", f"{'x' * 300}.png"], "too long"),
        (["generate", "-i", "/nowhere.png"], "/nowhere.png"),
        (["suite", "/nowhere.tsv"], "/nowhere.tsv is no file"),
        (["rate", "/nowhere"], "/nowhere holds no prompt suite"),
        (["rate", "/nowhere", "--results"], "there is no /nowhere/votes.sqlite"),
        (["generate", "-i", __file__], "unknown format"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_code_2(
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = quick(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.mark.parametrize(
    ("name", "value"), [("CORGI_WORKERS", "many"), ("CORGI_INCEPTION_WEIGHTS", "/nowhere.pt")]
)
def test_the_environment_is_checked(tmp_path: Path, name: str, value: str) -> None:
    done = corgi(tmp_path, "gate", **{name: value})
    assert done.returncode == 2
    assert name in done.stderr
    assert value in done.stderr


def test_results_shows_the_last_evaluation_again(tmp_path: Path) -> None:
    scores = {"4": {"cosine": 0.8125, "recall_at_1": 0.5, "shuffled": {"cosine": 0.1}}}
    metrics = {
        "protocol": a_protocol().stored,
        "baselines": {"CLIP text embedding": {"cosine": 0.25}},
        "priors": {"baseline": {"10%": scores}},
        "pictures": {
            "real embedding": {"none": {"frechet_clip": 1.5, "count": 24, "seconds": 2.0}}
        },
    }
    reports = tmp_path / ".corgi" / "emoji" / "reports"
    reports.mkdir(parents=True)
    (reports / "metrics.json").write_text(json.dumps(metrics))
    done = corgi(tmp_path, "results")
    assert done.returncode == 0, done.stderr
    for printed in ("0.812", "0.250", "1.500", "24 test images", "10%"):
        assert printed in done.stdout


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = corgi(tmp_path, "ui", "--dagster-port", port)
    assert done.returncode == 2
    assert port in done.stderr
    assert "--dagster-port" in done.stderr


@pytest.mark.parametrize(
    "ports", [("0", "5000"), ("70000", "5000"), ("3000", "-1"), ("4321", "4321")]
)
def test_ports_that_cannot_be_are_refused_at_once(tmp_path: Path, ports: tuple[str, str]) -> None:
    done = quick(tmp_path, "ui", "--dagster-port", ports[0], "--mlflow-port", ports[1])
    assert done.returncode == 2
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [["--help"], ["presets"], ["run", "--help"], ["config", "show"], ["results"], ["--version"]],
)
def test_every_command_prints_where_the_terminal_has_ascii_only(
    tmp_path: Path, words: list[str]
) -> None:
    done = corgi(tmp_path, *words, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert "Error" not in done.stdout
    assert "Unicode" not in done.stderr
    assert done.stdout.isascii()
    assert done.returncode == (2 if words == ["results"] else 0)


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert corgi(tmp_path, "--version").stdout == f"corgi {version('corgi')}\n"


def test_completion_can_be_installed(tmp_path: Path) -> None:
    done = corgi(
        tmp_path, "--install-completion", "bash", HOME=str(tmp_path),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert any("_COMPLETE" in path.read_text() for path in tmp_path.rglob("*.sh"))


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for target in ("demo", "test", "ui", "lint", "help"):
        assert f"make {target}" in done.stdout
    default = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    assert default.stdout == done.stdout
