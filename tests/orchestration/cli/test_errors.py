"""What the user can fix is one sentence and exit code 2, wherever it happens."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from orchestration.cli.errors import FILE_ERRORS, fixable_error
from tests.helpers import forked


def corgi(
    folder: Path, *words: str, program: str = forked.CORGI, **more: str
) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("CORGI_")}
    return forked.run(program, words, {**outside, **more}, folder)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert ". Fix: " in line
    return line


@pytest.mark.parametrize("number", FILE_ERRORS)
def test_errors_of_files_name_the_file_and_a_remedy(number: int) -> None:
    found = fixable_error(OSError(number, os.strerror(number), "/some/file"))
    assert found is not None
    assert found.problem.startswith("/some/file: ")
    assert found.remedy


def test_a_cause_is_found_below_other_errors() -> None:
    outer = RuntimeError("a step failed")
    outer.__cause__ = CorgiError("the data are empty", "add images")
    assert fixable_error(outer) is outer.__cause__


def test_a_database_that_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    with pytest.raises(OperationalError) as wrapped:
        create_engine(f"sqlite:///{tmp_path}/none/file.db").connect()
    for error in (wrapped.value, sqlite3.OperationalError("database or disk is full")):
        found = fixable_error(error)
        assert found is not None
        assert "database" in found.problem


@pytest.mark.parametrize(
    "error", [KeyError("x"), OSError(errno.EIO, "I/O"), FileNotFoundError(errno.ENOENT, "none")]
)
def test_a_defect_stays_a_defect(error: Exception) -> None:
    assert fixable_error(error) is None


@pytest.mark.parametrize("command", ["run", "study", "ui"])
def test_a_home_that_is_below_a_file(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    line = one_sentence(corgi(tmp_path, command, CORGI_HOME=str(tmp_path / "file" / "home")))
    assert str(tmp_path / "file") in line


def test_a_home_whose_name_is_too_long(tmp_path: Path) -> None:
    assert "too long" in one_sentence(
        corgi(tmp_path, "run", CORGI_HOME=str(tmp_path / ("x" * 300)))
    )


def test_a_defect_is_one_sentence_too_where_its_log_cannot_be_written(tmp_path: Path) -> None:
    program = """
import orchestration.cli.app as program

@program.cli.command()
def broken() -> None:
    raise ZeroDivisionError("a defect")

program.app()
"""
    (tmp_path / "file").touch()
    for home in (tmp_path / "file" / "home", tmp_path / "home"):
        done = corgi(
            tmp_path, "broken", program=program, CORGI_HOME=str(home), TMPDIR=str(tmp_path)
        )
        assert done.returncode == 1
        assert "Failed: ZeroDivisionError: a defect" in done.stderr
        assert "Traceback" not in done.stderr
    assert "ZeroDivisionError" in (tmp_path / "corgi.log").read_text()  # the temporary folder
    assert "ZeroDivisionError" in (tmp_path / "home" / "corgi.log").read_text()
