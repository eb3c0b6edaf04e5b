"""What counts as work and what as orchestration, in the benchmark of orchestration."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import corgi_core
from benchmarks.orchestration import Row, Stopwatch, is_work, table_of
from orchestration.resources import compute, ray_workers

CORE = str(Path(corgi_core.__file__).parent / "progress.py")
IDLE, BUSY = (SimpleNamespace(at_work=lambda busy=busy: busy) for busy in (False, True))


@pytest.mark.parametrize(
    ("stack", "pool", "expected"),
    [
        (("dagster.py", CORE, "torch.py"), None, True),
        (("dagster.py",), None, False),
        ((CORE, compute.__file__, "ray.py"), None, False),  # the core waits for Ray's start
        ((compute.__file__, CORE, "ray.py"), None, True),
        ((compute.__file__, CORE, ray_workers.__file__, "ray.py"), IDLE, False),
        ((compute.__file__, CORE, ray_workers.__file__, "ray.py"), BUSY, True),
    ],
)
def test_the_projects_innermost_function_says_whose_time_it_is(stack, pool, expected):
    """`stack`: the files of functions that call one another, the outermost first."""

    def call():
        return is_work(sys._getframe())

    for file in reversed(stack):
        scope = {"call": call, "pool": pool}
        exec(compile("def run(self=pool): return call()", file, "exec"), scope)
        call = scope["run"]
    assert call() is expected


@pytest.mark.parametrize("on_ray", [False, True])
def test_a_training_counts_once(tmp_path, on_ray):
    """Of a training in this process the samples know; of one on Ray its log."""
    stopwatch = Stopwatch(tmp_path, on_ray, Console(quiet=True))
    with stopwatch.doing("prior", "new"):
        log = '{"step": 10, "time": 100.0, "seconds": 40.0}\n'
        (tmp_path / "metrics.jsonl").write_text(log)
    (row,) = stopwatch.rows
    assert row.of_it_training == 40
    assert (row.work >= 40) is on_ray


def test_the_title_has_the_share():
    title = table_of([Row("start", 5.0), Row("prior", 95.0, 85.0, 80.0)]).title
    assert title == "Orchestration: 15 of 100 s, 15.0%"
