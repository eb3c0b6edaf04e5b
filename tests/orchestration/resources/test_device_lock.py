"""Workspaces on one machine take turns on its device; who waits reads who has it."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from pathlib import Path

import dagster as dg
import pytest

from corgi_core.progress import listening
from orchestration.resources import device_lock
from orchestration.resources.compute import Compute
from orchestration.resources.device_lock import device_held
from orchestration.settings import Settings


def hold(path: Path, held: Path) -> None:
    with device_held(path, "other"):
        held.touch()
        time.sleep(60)


def test_who_waits_reads_who_has_the_device_and_gets_it_from_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_lock, "RETRY_AFTER", 0.05)
    path, held = tmp_path / "device.lock", tmp_path / "held"
    other = multiprocessing.get_context("fork").Process(target=hold, args=(path, held), daemon=True)
    other.start()
    until = time.monotonic() + 20
    while not held.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    heard: list[str] = []

    def hear(what: str, done: int, total: int) -> None:
        heard.append(what)
        other.kill()

    @dg.asset
    def mine() -> str:
        compute = Compute(num_workers=0, device_lock=str(path), workspace="photos")
        return next(compute.map(written_in, path, [1], "reading"))

    with listening(hear), dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([mine], instance=instance)
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    for words in ("workspace other", "since ", f"process {other.pid} on {platform.node()}"):
        assert words in heard[0]
    assert any(words.startswith("waiting for this machine's device") for words in said)
    own = result.output_for_node("mine")
    for words in ("workspace photos", f"run {result.run_id[:8]}", "mine", f"process {os.getpid()}"):
        assert words in own


def written_in(path: Path, item: int) -> str:
    with device_held(path, "within"):  # this process has it
        return path.read_text()


def test_where_the_lock_is_and_who_does_without(tmp_path: Path) -> None:
    def compute(**variables: str) -> Compute:
        return Compute.of(Settings.from_environment({"CORGI_HOME": str(tmp_path), **variables}))

    assert f"corgi-device-{os.getuid()}" in str(compute().device_lock)
    assert compute(CORGI_DEVICE_LOCK="/tmp/gpu1").device_lock == "/tmp/gpu1"
    assert compute(CORGI_DEVICE_LOCK="off").device_lock is None
    assert compute(CORGI_RAY_ADDRESS="head:6379").device_lock is None
    assert compute(CORGI_RAY__DEVICE_JOBS="2").device_lock is None
    settings = Settings.from_environment({"CORGI_HOME": str(tmp_path), "CORGI_DEVICE_LOCK": "off"})
    again = Settings.from_environment(settings.child_environment({}))
    assert again.device_lock is None
