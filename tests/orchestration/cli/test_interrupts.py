"""A signal ends a command within ten seconds, and nothing that it started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.patience import PATIENCE

ROOT = Path(__file__).parents[3]
LIMIT = 10  # seconds from the signal to the end
HEAD = """
import subprocess, sys, time
from pathlib import Path
import dagster as dg
from orchestration.cli.interrupts import interrupts_raised
from orchestration.resources.interrupts import ended_in_time
from orchestration.resources.compute import Compute

def sleep(common, item):
    (Path(common) / "working").touch()
    time.sleep(600)
"""
MAP = """
@dg.asset
def busy() -> None:
    list(Compute(num_workers=1).map(sleep, str(Path.cwd()), [1, 2], "sleeping"))

with interrupts_raised(), ended_in_time(), dg.DagsterInstance.ephemeral() as instance:
    dg.materialize([busy], instance=instance)
"""
TRAINING = """
from dataclasses import replace
from tests.helpers.tiny import SETTINGS, TinyTask

@dg.asset
def busy() -> None:
    task, settings = TinyTask(), replace(SETTINGS, steps=10**8)
    Compute(num_workers=1).train(
        task, settings, Path.cwd() / "run", "tiny", lambda entry: Path("working").touch()
    )

with interrupts_raised(), ended_in_time(), dg.DagsterInstance.ephemeral() as instance:
    dg.materialize([busy], instance=instance)
"""
DEAF = """
with interrupts_raised(), ended_in_time(patience=1):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path("working").touch()
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""


def ended(
    folder: Path, program: str, number: signal.Signals, signals: int = 1
) -> tuple[int, float, str]:
    """Exit code, seconds after the signal and stderr of a program that is interrupted at work."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + program], cwd=folder, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + PATIENCE
    while not (folder / "working").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    descendants = psutil.Process(process.pid).children(recursive=True)
    assert descendants
    began = time.monotonic()
    for _ in range(signals):
        process.send_signal(number)
        time.sleep(0.1)
    _, said = process.communicate(timeout=PATIENCE)
    seconds = time.monotonic() - began
    _, alive = psutil.wait_procs(descendants, timeout=1)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    return process.returncode, seconds, said


@pytest.mark.parametrize(
    ("program", "number", "code"),
    [(TRAINING, signal.SIGINT, 130), (MAP, signal.SIGTERM, 143)],
    ids=["training", "map"],
)
def test_work_on_ray_inside_a_dagster_step_ends_at_a_signal(
    tmp_path: Path, program: str, number: signal.Signals, code: int
) -> None:
    returned, seconds, said = ended(tmp_path, program, number)
    assert returned == code, said
    assert seconds < LIMIT
    assert "Interrupted" in said


@pytest.mark.parametrize("signals", [1, 2])
def test_work_that_does_not_react_is_ended_and_its_children_with_it(
    tmp_path: Path, signals: int
) -> None:
    returned, seconds, said = ended(tmp_path, DEAF, signal.SIGTERM, signals)
    assert returned == 143
    assert seconds < LIMIT
    assert said.count("Interrupted") == 1


def test_every_command_ends_with_130_at_ctrl_c(tmp_path: Path) -> None:
    program = """
import orchestration.cli.app as program

@program.cli.command()
def wait() -> None:
    subprocess.Popen(["sleep", "2"])
    Path("working").touch()
    time.sleep(600)

sys.argv = ["corgi", "wait"]
program.app()
"""
    returned, seconds, said = ended(tmp_path, program, signal.SIGINT)
    assert returned == 130, said
    assert said == "Interrupted. Run the same command again to continue.\n"
    assert seconds < LIMIT
