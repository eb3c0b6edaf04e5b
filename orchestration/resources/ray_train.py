"""Ray Train around the one training loop. Imports no Dagster, so that workers need not either.

Ray starts the workers, joins them to a process group and replaces them when they die. All else is
the loop's own: a replaced worker goes on from the newest whole checkpoint, metrics travel through
the metrics log, and the weights are read from the run folder at the end. Either all nodes see the
run folder, or each worker has a scratch folder, and a storage that all reach has the copy that
lasts (`StoredRun`). Ray's own checkpoints are not used: it keeps them under a name that is new for
every attempt of a driver, and all workers would have to meet for every report of metrics.

Ray exports neither its failure policy, which would start a training again that a person has to
mend, nor the callbacks that cost 3 s a training each, so that they can be left out: all are taken
from `ray.train.v2._internal` here alone, checked against Ray 2.60.0 (pyproject.toml keeps below 3).
"""

from __future__ import annotations

import math
import platform
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corgi_core.errors import CorgiError
from corgi_core.io.folders import remove_folder
from orchestration.resources.deaths import death_in
from orchestration.resources.traces import position, span_below
from orchestration.resources.worker_shape import WorkerShape

if TYPE_CHECKING:
    from corgi_core.config import TrainingSettings
    from corgi_core.training.nodes import SharedRun, StoredRun
    from corgi_core.training.task import Task

MAX_FAILURES = 3  # times that dead workers are replaced without a new checkpoint between
START_TIMEOUT = 60.0  # seconds after which Ray tries again to start the workers


def fit(
    task: Task[Any],
    settings: TrainingSettings,
    run: SharedRun | StoredRun,
    folder: Path,
    name: str,
    shape: WorkerShape,
    patience: float,
) -> None:
    """Run the training on Ray workers until it is finished in `folder`.

    Ray's own run name is new every time: Ray silently resumes a name that it knows.

    Args:
        task: What is trained, on what.
        settings: Of the optimiser run.
        run: How workers reach the run.
        folder: The run folder on this machine, prepared.
        name: Of the training.
        shape: Of its workers.
        patience: Seconds to wait until workers that died with their node fit on another one.

    Raises:
        CorgiError: a node does not reach the run, workers died again and again, or have no place
            any more; and what the training itself raises.
    """
    import ray
    from ray.train import (
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )

    from corgi_core.training.identity import identity_of
    from corgi_core.training.nodes import ATTEMPT

    rays_own = folder / ATTEMPT
    run.publish(folder, identity_of(task, settings))
    # References, which Ray's controller hands on unread: it would load torch and open_clip by them.
    given = ray.put(
        {
            "task": task,
            "settings": settings,
            "run": run,
            "name": name,
            "shape": shape,
            "above": position(),
        }
    )
    trainer = _trainer_class(ray.put(run.newest_step))(
        train_on_worker,
        train_loop_config={"given": given},
        backend_config=_process_group(shape),
        scaling_config=ScalingConfig(
            num_workers=shape.workers,
            use_gpu=shape.gpus > 0,
            resources_per_worker={"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {}),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # typed as Ray Train V1's
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(rays_own),
            failure_config=FailureConfig(  # type: ignore[call-arg]  # the same
                max_failures=MAX_FAILURES, controller_failure_limit=_attempts_within(patience)
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )  # fmt: skip
    try:
        with run.followed(folder):
            trainer.fit()
        run.fetch_result(folder)
    except TrainingFailedError as failure:
        raise _explained(failure, name, shape, run.newest_step()) from failure
    except BaseException:
        ray.shutdown()  # interrupted: nothing may go on training unseen
        raise
    finally:
        remove_folder(rays_own)


def train_on_worker(config: dict[str, Any]) -> None:
    """What every worker runs: the core's loop with its rank, its device and its threads.

    Args:
        config: {"given": a reference to the training's task, settings, run, name and shape}.
    """
    import ray
    import torch
    from ray.train import get_context

    from corgi_core.training.loop import train

    config = ray.get(config["given"])
    shape: WorkerShape = config["shape"]
    run: SharedRun | StoredRun = config["run"]
    run.check_reached(f"the Ray node {platform.node()}")
    torch.set_num_threads(min(shape.cpus, torch.get_num_threads()))  # OMP_NUM_THREADS, if set
    device = torch.device("cpu")
    if shape.gpus:
        from ray.train.torch import get_device

        device = get_device()
    rank = get_context().get_world_rank()
    named = f"{config['name']}, worker {rank}"
    with span_below(config["above"], named, rank=rank), run.opened(rank) as folder:
        if folder is not None:
            train(
                config["task"],
                config["settings"],
                folder,
                rank=rank,
                world_size=shape.workers,
                device=device,
                name=config["name"],
                on_saved=run.copy_progress,
            )


def _process_group(shape: WorkerShape) -> Any:
    """Torch's process group; one worker needs none, and Ray's controller then loads no torch.

    NCCL refuses two workers on one GPU, so workers with a share of one have gloo.
    """
    if shape.workers == 1:
        return None
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if shape.gpus == 1 else "gloo")


def _attempts_within(patience: float) -> int:
    """How often Ray may fail to start the workers, each time after its own timeout."""
    return max(0, math.ceil(patience / START_TIMEOUT) - 1)


def _trainer_class(newest_step: Any) -> Any:
    """Ray's trainer, changed; `newest_step` refers to a function without arguments."""
    import ray
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.execution.failure_handling import (
        DefaultFailurePolicy,
        FailureDecision,
    )
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    class DeadWorkersOnly(DefaultFailurePolicy):
        """What a person has to mend is not tried again; a new checkpoint lets workers die anew."""

        step = 0

        def make_decision(self, training_failed_error: Any) -> FailureDecision:
            if isinstance(_cause_of(training_failed_error), CorgiError):
                return FailureDecision.RAISE
            if isinstance(training_failed_error, WorkerGroupError):
                self._controller_failures = 0  # these workers had a place
                if (step := ray.get(newest_step)()) > self.step:
                    self.step, self._worker_group_failures = step, 0
            return super().make_decision(training_failed_error)

    class Trainer(DataParallelTrainer):
        """Ray's trainer (of which its TorchTrainer is a case) without four of its habits."""

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            policy = DeadWorkersOnly(arguments["failure_policy"].failure_config)
            return super()._initialize_and_run_controller(**arguments | {"failure_policy": policy})

        def _create_default_callbacks(self) -> list[Any]:
            # A process of its own each, 3 s a training: one cleans up after a controller that dies
            # alone, but ours dies with the driver, and Ray frees a dead driver's resources; the
            # other hands out Ray's datasets, of which we have none.
            callbacks = super()._create_default_callbacks()
            unneeded = PlacementGroupCleanerCallback, DatasetsCallback
            return [c for c in callbacks if not isinstance(c, unneeded)]

        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave Ctrl-C alone: Ray's handler stays for good, and ends the process with 0."""

    return Trainer


def _cause_of(failure: Any) -> BaseException:
    """The CorgiError that a worker raised, if that is what it was; else Ray's own error."""
    for error in getattr(failure, "worker_failures", {}).values():
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, CorgiError):
                return cause
            cause = getattr(cause, "_base_exc", None) or cause.__cause__
    return failure


def _explained(failure: Any, name: str, shape: WorkerShape, step: int) -> BaseException:
    """The CorgiError for workers that died or had no place; else the failure's cause."""
    cause, goes_on = _cause_of(failure), f"the next run goes on from step {step}"
    if hasattr(failure, "controller_failure"):
        if not _could_not_start(failure.controller_failure):
            return cause
        return CorgiError(
            f"{name}: the cluster has no place any more for {shape}",
            f"add a node in place of what was lost, or set CORGI_WORKERS lower; {goes_on}",
        )
    failures = failure.worker_failures.values()
    ends = [death_in(getattr(error, "health_check_failure", error)) for error in failures]
    deaths = [end for end in ends if end]
    if isinstance(cause, CorgiError) or not deaths:
        return cause
    return CorgiError(
        f"{name}: workers died {MAX_FAILURES + 1} times without a new checkpoint between "
        f"({deaths[0]})",
        "if they lacked memory, lower the training's batch_size, raise its accumulation, or have "
        f"fewer workers on a node (CORGI_WORKERS); {goes_on}",
    )


def _could_not_start(failure: BaseException) -> bool:
    from ray.train.v2._internal.exceptions import (
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )

    return isinstance(failure, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError)
