"""The benchmark of the gate: it runs, and counts every image."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.ingest import app
from benchmarks.prior_systems.parent import REPOSITORY
from corgi_core.errors import CorgiError
from tests.helpers import forked


def test_command_measures_the_gate_and_ingest(tmp_path: Path) -> None:
    """The real command and process; img2dataset would need a package registry."""
    file = tmp_path / "ingest.json"
    words = ["--quick", "--systems", "corgi", "--cores", "1", "--json", str(file)]
    done = forked.run(forked.module("benchmarks.ingest"), words, os.environ, REPOSITORY)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert [(row["work"], row["images"]) for row in rows] == [("gate", 20), ("ingest", 20)]
    assert all(row["per_second"] > 0 and row["processor_ms"] > 0 for row in rows)
    assert "the gate is" in done.stdout


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(CorgiError, match="there is no system 'nobody'"):
        CliRunner().invoke(app, ["--systems", "nobody"], catch_exceptions=False)
