"""Ray: a cluster by its address, or a local one that the first training of a process starts.

Built on dagster-ray's LocalRay, with two differences. Ray is started when a training needs it, not
with every step, and it runs until the process ends, because starting costs seconds.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
from dagster_ray import LocalRay
from pydantic import Field

from corgi_core import progress
from corgi_core.io.files import is_running
from orchestration.environment import set_for_library
from orchestration.resources.ray_train import apply_on_worker, fit, worker_shape

if TYPE_CHECKING:
    from corgi_core.config import TrainingSettings
    from corgi_core.training.metrics_log import Entry
    from corgi_core.training.run_folder import TrainingResult
    from corgi_core.training.task import Task

OBJECT_STORE = 100 * 2**20  # bytes; tasks are settings and folders, so little passes through it

# Ray Train polls its workers every 0.2 s instead of 2; nothing is sent home; the preemption
# watcher and the metrics exporter, a process and a server, serve clusters only.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}

SESSIONS, SESSION = Path("/tmp"), "corgi-ray-"  # where sessions' folders lie, and their prefix

Common = TypeVar("Common")
Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Compute(LocalRay):
    """Runs trainings on Ray Train workers, and functions on Ray tasks.

    With `num_workers` 0 the loop runs in this process: no worker to start, none to replace.
    """

    address: str | None = Field(default=None, description="A Ray cluster; default: a local one.")
    num_workers: int = Field(default=1, ge=0, description="Ray Train workers; 0: this process.")

    @property
    def ray_address(self) -> str | None:  # type: ignore[override]
        """The cluster's address; None for a local Ray."""
        return self.address

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Connect to nothing before, and disconnect from nothing after a step."""
        yield self

    def connect(self, context: Any = None) -> Any:  # type: ignore[override]
        """Start or join Ray, unless this process has done so already."""
        set_for_library(ENVIRONMENT)
        if not self.address:
            set_for_library(LOCAL_ENVIRONMENT)
        import ray

        if ray.is_initialized():
            return ray.get_runtime_context()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self.address:
            options |= {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": _session_folder(),
                "_node_ip_address": "127.0.0.1",  # a laptop's own address changes
            }
        with interrupts_for_ray():  # Ray puts a handler of its own in place, which is taken back
            return ray.init(address=self.address, **{**options, **self.ray_init_options})

    def train(
        self,
        task: Task[Any],
        settings: TrainingSettings,
        folder: Path,
        name: str,
        on_metrics: Callable[[Entry], None] | None = None,
    ) -> TrainingResult[Any]:
        """Train `task` in the run folder `folder`, or go on where a killed run stopped there.

        `on_metrics` is called with each entry of the metrics log in order, those before this
        call included. When it raises, the entry is offered again later; the training goes on, and
        the result's `undelivered` counts what it never took.

        Raises CorgiError: more workers than CPUs (or GPUs), a folder of another training, and all
        that `corgi_core.training.loop.train` raises.
        """
        from corgi_core.training.loop import train
        from corgi_core.training.metrics_log import MetricsFollower, headline
        from corgi_core.training.run_folder import finished_training, prepare_run_folder

        def hear(entry: Entry) -> None:
            if self.num_workers:  # else the loop reports by itself
                progress.report(headline(name, entry), entry["step"], settings.steps)
            if on_metrics:
                on_metrics(entry)

        folder = prepare_run_folder(task, settings, folder, max(1, self.num_workers))
        with MetricsFollower(folder / "metrics.jsonl", hear) as following:
            result = finished_training(task, folder)
            if result:
                log.info("%s is finished already; its weights are taken as they are", name)
            elif self.num_workers == 0:
                result = train(task, settings, folder, name=name)
            else:
                shape = worker_shape(self.num_workers, self._nodes())
                self.connect()
                with interrupts_for_ray():
                    fit(task, settings, folder, name, shape)
                trained = finished_training(task, folder)
                if trained is None:
                    raise RuntimeError(f"the workers ended, but {folder} holds no finished run")
                result = replace(trained, already_finished=False)
        return replace(result, undelivered=following.undelivered)

    def map(
        self,
        function: Callable[[Common, Item], Result],
        common: Common,
        items: Sequence[Item],
        what: str,
    ) -> Iterator[Result]:
        """function(common, item) of every item, each on one CPU, as they come and in any order.

        `function` is a top-level one. `common` is sent once to every worker, which keeps it, with
        all that it has loaded, for its next items. Progress is reported as `what`. With
        `num_workers` 0 the items are done here, one after the other.

        Raises what `function` raises. When the iterator is closed, the work ends.
        """
        if self.num_workers == 0:
            yield from progress.track((function(common, item) for item in items), what, len(items))
            return
        import ray

        self.connect()
        try:
            reference = ray.put(common)
            remote = ray.remote(num_cpus=1)(apply_on_worker)
            running = [remote.remote(function, [reference], item) for item in items]
            yield from progress.track(_as_they_come(running), what, len(items))
        except BaseException:
            ray.shutdown()  # no task may outlive the error
            raise

    def _nodes(self) -> list[Mapping[str, float]]:
        """The resources of each node; of this machine where no Ray runs yet."""
        import ray

        if self.address:
            self.connect()
        if ray.is_initialized():
            return [node["Resources"] for node in ray.nodes() if node["Alive"]]
        import torch

        return [{"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}]


def _as_they_come(running: list[Any]) -> Iterator[Any]:
    """The results of Ray's tasks in the order in which they end; the first failure is raised."""
    import ray

    while running:
        try:
            with interrupts_for_ray():
                (done,), running = ray.wait(running, num_returns=1)
                result = ray.get(done)
        except ray.exceptions.RayTaskError as failure:
            raise failure.cause from failure
        yield result


@contextmanager
def interrupts_for_ray() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread.

    Ray's waiting calls expect that. Dagster's handler raises an error of its own, for which Ray
    waits on, raises SystemError or aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _session_folder() -> str:
    """A private folder for Ray's session, removed with the process; sockets need a short path.

    What killed processes left of theirs is removed too.
    """
    for left_over in SESSIONS.glob(f"{SESSION}*"):
        owner = left_over.name.removeprefix(SESSION).partition("-")[0]
        if owner.isdecimal() and not is_running(int(owner)):
            shutil.rmtree(left_over, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{SESSION}{os.getpid()}-", dir=SESSIONS)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
