"""Logs stay bounded while servers and runs write to them."""

from __future__ import annotations

import logging
from pathlib import Path

from corgi_core.io.locks import exclusive_lock
from orchestration.resources.log_rotation import LIMIT, before, rotate
from orchestration.resources.logs import LOG_FILE, file_handler
from orchestration.settings import Settings


def test_a_log_that_a_server_has_open_goes_on_in_the_same_file(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    rotate(log, 3)  # there is none yet
    with log.open("ab", buffering=0) as server:
        for written, now, then in (
            (b"one", b"one", None),
            (b"two", b"", b"onetwo"),
            (b"3", b"3", b"onetwo"),
            (b"four", b"", b"3four"),
        ):
            server.write(written)
            rotate(log, 3)
            assert log.read_bytes() == now
            assert (before(log).read_bytes() if before(log).exists() else None) == then


def test_a_log_that_cannot_be_rotated_grows_on(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    log.write_text("long")
    with exclusive_lock(tmp_path / ".daemon.log.lock", "another process rotates it"):
        rotate(log, 3)
    assert log.read_text() == "long"
    (tmp_path / ".daemon.log.copy").mkdir()
    rotate(log, 3)
    assert log.read_text() == "long"


def test_a_workspaces_log_is_rotated_when_a_step_begins(tmp_path: Path) -> None:
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path)})
    log = settings.state / LOG_FILE
    log.parent.mkdir(parents=True)
    with log.open("wb") as file:
        file.truncate(LIMIT + 1)
    handler = file_handler(settings)
    handler.handle(logging.LogRecord("corgi", logging.INFO, "", 0, "a line", None, None))
    handler.close()
    assert log.read_text().endswith("INFO corgi: a line\n")
    assert before(log).stat().st_size == LIMIT + 1
    assert {path.name for path in log.parent.iterdir()} == {
        LOG_FILE, f"{LOG_FILE}.1", f".{LOG_FILE}.lock"
    }  # fmt: skip
