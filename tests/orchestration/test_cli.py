"""The command line and the Makefile, as a newcomer meets them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def corgi(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CORGI_")}
    return subprocess.run(
        [sys.executable, "-c", "from orchestration.cli import app; app()", *words],
        cwd=folder, env={**environment, "COLUMNS": "100", **more}, capture_output=True, text=True,
    )  # fmt: skip


def test_help_is_quick_and_names_every_command(tmp_path: Path) -> None:
    began = time.process_time(), time.monotonic()
    done = corgi(tmp_path, "--help")
    assert time.monotonic() - began[1] < 3  # 0.3 s on an idle machine
    assert done.returncode == 0
    for command in ("demo", "generate", "ingest", "gate", "ui", "presets"):
        assert command in done.stdout
    assert not list(tmp_path.iterdir())  # asking for help makes nothing


@pytest.mark.parametrize("command", ["demo", "generate", "ingest", "gate", "ui", "presets"])
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
        (["generate", "a cat"], "champion"),
        (["generate", "a cat", "--out", "cat.jpg"], "cat.jpg"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_code_2(
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = corgi(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_number_of_workers_is_a_number(tmp_path: Path) -> None:
    done = corgi(tmp_path, "gate", CORGI_WORKERS="many")
    assert done.returncode == 2
    assert "CORGI_WORKERS" in done.stderr


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


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for target in ("demo", "test", "ui", "lint", "help"):
        assert f"make {target}" in done.stdout
    default = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    assert default.stdout == done.stdout
