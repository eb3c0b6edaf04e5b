"""Ray: a cluster by its address, or a local one that the first training of a process starts.

Built on dagster-ray's LocalRay, with two differences. Ray is started when a training needs it, not
with every step, and it runs until the process ends, because starting costs seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
from dagster_ray import LocalRay
from pydantic import Field

from corgi_core import progress
from corgi_core.config import InferencePrecision
from corgi_core.errors import CorgiError
from corgi_core.io.full_disk import full_disk_explained
from corgi_core.io.scratch import private_folder
from orchestration.environment import NO_TELEMETRY, set_for_library
from orchestration.resources.device_lock import device_held
from orchestration.resources.interrupts import interrupts_for_ray
from orchestration.resources.progress_log import progress_logged
from orchestration.resources.ray_train import fit
from orchestration.resources.ray_workers import Opened, gpu_share, share_among_workers, share_of
from orchestration.resources.traces import Position, position, span, span_below
from orchestration.resources.worker_shape import Node, nodes_of_cluster, shape_when_free
from orchestration.settings import Settings

if TYPE_CHECKING:
    from upath import UPath

    from corgi_core.config import TrainingSettings
    from corgi_core.data.array_jobs import ArrayJob
    from corgi_core.data.arrays import ArrayStore, MissingShard
    from corgi_core.devices import Device
    from corgi_core.mapping import Map
    from corgi_core.training.metrics_log import Entry
    from corgi_core.training.run_folder import TrainingResult
    from corgi_core.training.task import Task

OBJECT_STORE = 100 * 2**20  # bytes; tasks are settings and folders, so little passes through it

# Ray Train polls its workers every 0.2 s instead of 2; nothing is sent home; the preemption
# watcher and the metrics exporter, a process and a server, serve clusters only.
ENVIRONMENT = {
    **NO_TELEMETRY,
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
# Without clusters, as on macOS, a local Ray's processes listen on the loopback alone; with them, on
# all interfaces. Ray reads the first variable when it is imported. That it asks for a token is its
# own default, which it sets in this process as it starts. A worker a CPU that Ray starts beforehand
# takes seconds, and Ray Train cannot use it: its workers have variables of their own.
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}

SESSIONS, SESSION = Path("/tmp"), "corgi-ray-"  # of Ray's folders; its sockets need a short path

Common = TypeVar("Common")
Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Compute(LocalRay):
    """Runs trainings on Ray Train workers, and functions of items and shards on Ray actors.

    With `num_workers` 0 all of it runs in this process: no worker to start, none to replace.
    """

    address: str | None = Field(default=None, description="A Ray cluster; default: a local one.")
    num_workers: int = Field(default=1, ge=0, description="Ray Train workers; 0: this process.")
    min_images: int = Field(default=0, ge=0, description="Fewer are embedded in this process.")
    cpus_per_worker: int = Field(default=1, ge=1, description="Of those that embed.")
    gpus_per_worker: float = Field(default=1.0, gt=0, description="The same; or a fraction.")
    training_gpus: float = Field(default=1.0, gt=0, le=1, description="Of Ray Train workers.")
    patience: float = Field(default=600.0, ge=0, description="Seconds to wait for workers.")
    precision: InferencePrecision = Field(
        default="auto", description="Of encoding, sampling and decoding on a GPU."
    )
    device_lock: str | None = Field(
        default=None, description="The file by which workspaces of this machine take turns."
    )
    workspace: str = Field(default="", description="The name that others read who wait.")

    @classmethod
    def of(cls, settings: Settings) -> Compute:
        """What the settings say."""
        ray = settings.preset.ray
        alone = settings.device_lock and not settings.ray_address and ray.device_jobs == 1
        return cls(
            address=settings.ray_address,
            num_workers=settings.preset.workers,
            min_images=ray.min_images,
            cpus_per_worker=ray.cpus_per_worker,
            gpus_per_worker=ray.gpus_per_worker,
            training_gpus=ray.training_gpus,
            patience=ray.patience,
            precision=settings.preset.inference_precision,
            device_lock=str(settings.device_lock) if alone else None,
            workspace=settings.workspace,
        )

    @property
    def device(self) -> Device:
        """Where models compute outside of a training: the GPU of the process that asks, if any."""
        from corgi_core.devices import Device

        return Device(precision=self.precision)

    @contextmanager
    def _device_held(self, uses_device: bool = True) -> Iterator[None]:
        """While the block runs, this machine's device is its own; who waits for it reads whose."""
        path = Path(self.device_lock) if self.device_lock and uses_device else None
        with ExitStack() as held:
            with progress_logged():
                held.enter_context(device_held(path, self.workspace))
            yield

    @property
    def ray_address(self) -> str | None:  # type: ignore[override]
        """The cluster's address; None for a local Ray."""
        return self.address

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Connect to nothing before, and disconnect from nothing after a step."""
        yield self

    def connect(self, context: Any = None) -> Any:  # type: ignore[override]
        """Start or join Ray, unless this process has done so already.

        Raises CorgiError: no cluster answers at `address`, or it refuses this process's token.
        """
        self._prepare_ray()
        import ray

        if ray.is_initialized():
            return ray.get_runtime_context()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self.address:
            options |= {
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_temp_dir": str(private_folder(SESSION, SESSIONS)),
            }
        with interrupts_for_ray():  # Ray puts a handler of its own in place, which is taken back
            try:
                return ray.init(address=self.address, **{**options, **self.ray_init_options})
            except (ConnectionError, ray.exceptions.AuthenticationError) as failure:
                raise _explained(failure, self.address) from failure

    def _prepare_ray(self) -> None:
        """Set what Ray reads when it is imported."""
        set_for_library(ENVIRONMENT if self.address else ENVIRONMENT | LOCAL_ENVIRONMENT)

    def train(
        self,
        task: Task[Any],
        settings: TrainingSettings,
        folder: Path,
        name: str,
        on_metrics: Callable[[Entry], None] | None = None,
        storage: UPath | None = None,
    ) -> TrainingResult[Any]:
        """Train `task` in the run folder `folder`, or go on where a killed run stopped there.

        Args:
            task: What is trained, on what.
            settings: Of the optimiser run.
            folder: The run folder, on this machine.
            name: What progress is reported under.
            on_metrics: Called with each entry of the metrics log in order, those before this call
                included. When it raises, the entry is offered again later; the training goes on,
                and the result's `undelivered` counts what it never took.
            storage: Where a cluster's nodes, which then need not share `folder`, keep this run's
                checkpoints and its result; a folder or URL that all of them reach.

        Raises:
            CorgiError: more workers than CPUs (or GPUs) at all, or than are free within `patience`;
                a node of the cluster that shares neither `folder` nor `storage`; workers that died
                again and again; a folder of another training, and all else that
                `corgi_core.training.loop.train` raises.
        """
        from corgi_core.devices import release_memory
        from corgi_core.training.loop import train
        from corgi_core.training.metrics_log import MetricsFollower, headline
        from corgi_core.training.nodes import SharedRun, StoredRun
        from corgi_core.training.run_folder import (
            explain_full_disk,
            finished_training,
            prepare_run_folder,
        )

        def hear(entry: Entry) -> None:
            if self.num_workers:  # else the loop reports by itself
                progress.report(headline(name, entry), entry["step"], settings.steps)
            if on_metrics:
                on_metrics(entry)

        folder = prepare_run_folder(task, settings, folder, max(1, self.num_workers))
        run: SharedRun | StoredRun = SharedRun(folder)
        if self.address and storage is not None:
            run = StoredRun(storage)
        run.fetch_result(folder)  # of another driver
        with MetricsFollower(folder / "metrics.jsonl", hear) as following:
            result = finished_training(task, folder)
            if result:
                log.info("%s is finished already; its weights are taken as they are", name)
            elif self.num_workers == 0:
                with self._device_held():
                    result = train(task, settings, folder, device=self.device.here(), name=name)
                result.model.cpu()
            else:
                with self._device_held():
                    shape = shape_when_free(
                        self.num_workers, self.training_gpus, self._nodes, self.patience
                    )
                    self.connect()
                    release_memory()
                    with interrupts_for_ray(), explain_full_disk(folder):
                        fit(task, settings, run, folder, name, shape, self.patience)
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
        *,
        uses_device: bool = True,
    ) -> Generator[Result]:
        """function(common, item) of every item, each on one CPU, in the items' order.

        What a dead worker had begun is done again. A few results wait for those before them; then
        no further item is begun until the caller has taken some.

        Args:
            function: A top-level function.
            common: Sent once to every worker, which keeps it, with all that it has loaded, for its
                next items.
            items: With `num_workers` 0 they are done here, one after the other.
            what: What progress is reported as.
            uses_device: Whether a GPU makes it faster. Then the CPUs share the GPUs that there are.

        Raises:
            CorgiError: workers died or lacked memory again and again at one item.
            And what `function` raises. Then, and when the generator is closed, the workers end.
        """
        if self.num_workers == 0:
            results: Generator[Result] = (function(common, item) for item in items)
        else:
            opened = partial(_with_common, function, common)
            gpus = None if uses_device else 0
            results = self._on_workers(opened, items, 1, gpus, lambda item: f"one of the {what}")
        with self._device_held(uses_device), progress_logged(), closing(results):
            yield from progress.track(results, what, len(items))

    def map_images(self, images: int) -> Map:
        """`map` on CPUs where so many images are worth Ray's start; else in this process."""
        from corgi_core.mapping import map_here

        worth = self.num_workers > 0 and images >= self.min_images
        return partial(self.map, uses_device=False) if worth else map_here

    def arrays(self, job: ArrayJob, folder: Path | UPath) -> ArrayStore:
        """Make the store in `folder` whole: the job's arrays of every shard of its dataset.

        Shards that are missing are computed here, or on Ray where that is worth its start
        (`min_images`); the arrays are the same. What is killed leaves whole shards, and the
        next call goes on from them.

        Args:
            job: What is computed, from which dataset; it is sent to every worker once, and loads
                there what it names.
            folder: Where the arrays are stored. On Ray all machines see it, and what the job
                names, under the same path or URL.

        Raises:
            CorgiError: a machine does not see a folder, `folder` holds what Corgi did not write,
                workers died again and again at a shard, no worker could start; and what the job
                itself raises.
        """
        from corgi_core.data.array_jobs import ShardWriter
        from corgi_core.data.arrays import finished_store, missing_shards, report_shards
        from corgi_core.devices import release_memory

        missing = missing_shards(folder, job.images, job.spec)
        with span(job.what, shards=len(missing)):
            opened = partial(_with_spans, ShardWriter(job, folder).opened, job.what, position())
            if self._worth_ray(job, missing):
                gpus = self.gpus_per_worker if job.uses_device else 0
                written = self._on_workers(
                    opened, missing, self.cpus_per_worker, gpus, _name_of_shard, in_order=False
                )
            else:
                written = _written_here(opened, str(self.device.here()), missing)
            needed = job.uses_device and bool(missing)
            full = full_disk_explained(folder)
            with full, self._device_held(needed), progress_logged(), closing(written):
                report_shards(written, job.images, missing, job.what)
        release_memory()
        return finished_store(folder, job.images, job.spec, missing)

    def _worth_ray(self, job: ArrayJob, missing: Sequence[MissingShard]) -> bool:
        images = job.weight * sum(job.images.images_in(shard.name) for shard in missing)
        return self.num_workers > 0 and len(missing) > 1 and images >= self.min_images

    def _on_workers(
        self,
        opened: Opened[Item, Result],
        items: Sequence[Item],
        cpus: int,
        gpus: float | None,
        name: Callable[[Item], str],
        in_order: bool = True,
    ) -> Generator[Result]:
        """The items' results, from workers with so many CPUs and GPUs; None: a CPU's share."""
        self.connect()
        import ray

        nodes = [node.total for node in self._nodes()]
        share = share_of(nodes, len(items), cpus, gpu_share(nodes) if gpus is None else gpus)
        try:
            yield from share_among_workers(opened, items, share, name, self.patience, in_order)
        except KeyboardInterrupt:
            ray.shutdown()  # its waiting calls may have been cut short in the middle
            raise

    def _nodes(self) -> list[Node]:
        """The cluster's nodes; this machine, all of it free, where no Ray runs yet."""
        self._prepare_ray()
        import ray

        if self.address:
            self.connect()
        if ray.is_initialized():
            return nodes_of_cluster()
        import torch

        machine = {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}
        return [Node(machine, machine)]


def _explained(failure: Exception, address: str | None) -> Exception:
    """The CorgiError for a cluster that cannot be joined; a local Ray's failure as it is."""
    if address is None:
        return failure
    if "Authentication" in f"{type(failure).__name__} {failure.__cause__}":
        return CorgiError(
            f"the Ray cluster at {address} refuses this process's token",
            "set RAY_AUTH_MODE=token and copy the cluster's token to ~/.ray/auth_token, or name "
            "its file in RAY_AUTH_TOKEN_PATH",
        )
    return CorgiError(
        f"no Ray cluster answers at {address}",
        "start one there (`ray start --head`), or correct CORGI_RAY_ADDRESS",
    )


def _written_here(
    opened: Opened[MissingShard, MissingShard], device: str, missing: Sequence[MissingShard]
) -> Generator[MissingShard]:
    """The shards, each when this process has written it; what they need goes with the last."""
    import torch

    if missing:
        yield from map(opened(device, torch.get_num_threads()), missing)


def _name_of_shard(shard: MissingShard) -> str:
    return f"shard {shard.name}"


def _with_spans(
    opened: Opened[MissingShard, MissingShard],
    what: str,
    above: Position | None,
    device: str,
    threads: int,
) -> Callable[[MissingShard], MissingShard]:
    """What `opened` returns, with a span a shard below the given one, wherever it is computed."""
    written = opened(device, threads)

    def traced(shard: MissingShard) -> MissingShard:
        with span_below(above, f"{what} {shard.name}", shard=shard.name):
            return written(shard)

    return traced


def _with_common(
    function: Callable[[Common, Item], Result], common: Common, device: str, threads: int
) -> Callable[[Item], Result]:
    """The function of one item, computed by that many threads."""
    import torch

    torch.set_num_threads(threads)
    return partial(function, common)
