"""The parent's side: starts the systems' processes, and lets one of them work at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.environments import python_with
from benchmarks.prior_systems.system import Case
from corgi_core.errors import CorgiError

REPOSITORY = Path(__file__).parents[2]
DALLE2 = Path(__file__).with_name("dalle2-requirements.txt")
MODULES = {"corgi": "corgi", "diffusers": "diffusers_prior", "dalle2-pytorch": "dalle2"}
SLOW = 8.0  # seconds of a run, from which on fewer rounds have to do
SLICES = 12  # of the training time, in turn


class Child:
    """A running system. Ask it one thing at a time."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Its answer; a CorgiError if it died of the question."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise CorgiError(
                f"{self.name} stopped at {do!r} {request}",
                "read its message above, or leave it out with --systems",
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def prepare(self, case: Case) -> dict[str, Any]:
        """Build the case, and run it once to warm up."""
        return self.ask("prepare", case=asdict(case))


@contextmanager
def children(names: Sequence[str], threads: int, home: Path) -> Iterator[list[Child]]:
    """The named systems' processes, each computing with so many threads; ended on leaving.

    DALLE2-pytorch's environment is made under `home` when it is not there.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    with ExitStack() as stack:
        running = []
        for name in names:
            python = Path(sys.executable)
            if name == "dalle2-pytorch":
                python = python_with(DALLE2, home, name)
            process = subprocess.Popen(
                [python, "-m", f"benchmarks.prior_systems.{MODULES[name]}"],
                cwd=REPOSITORY, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(end_child, process)
            running.append(Child(name, process))
        yield running


def end_child(process: subprocess.Popen[str]) -> None:
    """End a system's process: it reads its questions to the end, and leaves."""
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def in_turn(systems: Sequence[Child], rounds: int, work: Callable[[Child], None]) -> None:
    """Round after round, each system once, another one first in every round."""
    for i in range(rounds):
        first = i % len(systems)
        for child in [*systems[first:], *systems[:first]]:
            work(child)


def measure_speed(
    systems: Sequence[Child], case: Case, rounds: int, slow_rounds: int
) -> list[dict[str, Any]]:
    """A row for each system: items per second, by the median of the rounds."""
    warm = [child.prepare(case)["seconds"] for child in systems]
    seconds: dict[str, list[float]] = {child.name: [] for child in systems}
    items: dict[str, int] = {}

    def once(child: Child) -> None:
        answer = child.ask("measure")
        seconds[child.name].append(answer["seconds"])
        items[child.name] = answer["items"]

    in_turn(systems, slow_rounds if max(warm) > SLOW else rounds, once)
    return [
        {
            "system": name,
            "task": case.task,
            "dim": case.dim,
            "batch": case.batch,
            "per_second": items[name] / statistics.median(times),
            "fastest": items[name] / min(times),
            "slowest": items[name] / max(times),
            "rounds": len(times),
            "precision": case.precision,
            "device": case.device,
        }
        for name, times in seconds.items()
    ]


def measure_learning(
    systems: Sequence[Child], case: Case, learning_rates: Sequence[float]
) -> list[dict[str, Any]]:
    """A row for each system and learning rate: held-out loss after the case's seconds."""
    rows = []
    for rate in learning_rates:
        for child in systems:
            child.prepare(replace(case, learning_rate=rate))
        in_turn(systems, SLICES, lambda child: child.ask("learn", seconds=case.seconds / SLICES))
        for child in systems:
            trained, result = child.ask("learn", seconds=case.seconds), child.ask("evaluate")
            rows.append(
                {"system": child.name, "dim": case.dim, "learning_rate": rate, **trained, **result}
            )
    return rows
