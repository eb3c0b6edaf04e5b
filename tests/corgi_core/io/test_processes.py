"""A process is told from a later one that has its number."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import psutil
import pytest

from corgi_core.io import processes
from corgi_core.io.processes import has_ended, this_process


@pytest.fixture(params=[True, False], ids=["/proc", "psutil"])
def _source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    if not request.param:
        monkeypatch.setattr(processes, "PROC", tmp_path)


@pytest.mark.usefixtures("_source")
def test_a_process_has_ended_when_it_is_gone_a_zombie_or_another_with_its_number() -> None:
    mark = this_process()
    assert mark.pid == os.getpid()
    assert not has_ended(mark)
    assert has_ended(replace(mark, started="an earlier boot"))
    assert not has_ended(replace(mark, host="elsewhere", pid=2**22 + 1))
    with subprocess.Popen(["sleep", "60"]) as child:
        alive = replace(mark, pid=child.pid, started=processes._started(child.pid) or "")
        assert alive.started not in ("", mark.started)
        assert not has_ended(alive)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not waited for
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert has_ended(alive)
    assert has_ended(alive)
