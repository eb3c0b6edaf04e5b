"""Ray Train around the one training loop. Imports no Dagster, so that workers need not either.

Ray starts the workers, joins them to a process group and replaces them when they die. All else is
the loop's own: a replaced worker goes on from the run folder's newest whole checkpoint, metrics
travel through the metrics log there, and the weights are read from there at the end.

Ray exports neither its failure policy, which would start a training again that a person has to
mend, nor the callback that costs 3 s a training, so that it can be left out: both are taken from
`ray.train.v2._internal` here alone, checked against Ray 2.60.0 (pyproject.toml keeps below 3).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corgi_core.errors import CorgiError
from corgi_core.io.files import remove_folder

if TYPE_CHECKING:
    from corgi_core.config import TrainingSettings
    from corgi_core.training.task import Task

MAX_FAILURES = 3  # times that dead workers are replaced in one training


@dataclass(frozen=True)
class WorkerShape:
    """How many workers, and what Ray reserves for each of them."""

    workers: int
    cpus: int
    gpu: bool


def worker_shape(workers: int, nodes: Sequence[Mapping[str, float]]) -> WorkerShape:
    """Share the nodes' CPUs among the workers; every worker gets a GPU if there are any at all.

    `nodes` holds each node's resources, {"CPU": 8.0, "GPU": 1.0}. A worker's reserved CPUs are
    its threads, so the workers never fight over them. Ray would wait in silence for more workers
    than fit; here that is a CorgiError.
    """
    gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    for cpus in range(most, 0, -1):
        room = [min(node.get("CPU", 0) // cpus, node.get("GPU", 0) if gpu else workers)
                for node in nodes]  # fmt: skip
        if sum(map(int, room)) >= workers:
            return WorkerShape(workers, cpus, gpu)
    kind = "GPU" if gpu else "CPU"
    there = int(sum(node.get(kind, 0) for node in nodes))
    raise CorgiError(
        f"{workers} training workers were asked for, but there are {there} {kind}s",
        f"set CORGI_WORKERS to {there} or fewer, or name a larger cluster in CORGI_RAY_ADDRESS",
    )


def fit(
    task: Task[Any], settings: TrainingSettings, folder: Path, name: str, shape: WorkerShape
) -> None:
    """Run the training on Ray workers until it is finished in `folder`.

    Ray's own run name is new every time: Ray silently resumes a name that it knows.
    """
    import ray
    from ray.train import (
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )

    storage = folder / "ray"
    trainer = _trainer_class()(
        train_on_worker,
        train_loop_config={
            "task": task, "settings": settings, "folder": folder, "name": name, "shape": shape,
        },
        backend_config=_process_group(shape),
        scaling_config=ScalingConfig(
            num_workers=shape.workers,
            use_gpu=shape.gpu,
            resources_per_worker={"CPU": shape.cpus, **({"GPU": 1} if shape.gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # typed as Ray Train V1's
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )  # fmt: skip
    try:
        trainer.fit()
    except TrainingFailedError as failure:
        raise _cause_of(failure) from failure
    except BaseException:
        ray.shutdown()  # interrupted: nothing may go on training unseen
        raise
    finally:
        remove_folder(storage)


def train_on_worker(config: dict[str, Any]) -> None:
    """What every worker runs: the core's loop with its rank, its device and its threads."""
    import torch
    from ray.train import get_context

    from corgi_core.training.loop import train

    shape: WorkerShape = config["shape"]
    torch.set_num_threads(min(shape.cpus, torch.get_num_threads()))  # OMP_NUM_THREADS, if set
    device = torch.device("cpu")
    if shape.gpu:
        from ray.train.torch import get_device

        device = get_device()
    train(
        config["task"],
        config["settings"],
        config["folder"],
        rank=get_context().get_world_rank(),
        world_size=shape.workers,
        device=device,
        name=config["name"],
    )


def _process_group(shape: WorkerShape) -> Any:
    """Torch's process group; one worker needs none, and Ray's controller then loads no torch."""
    if shape.workers == 1:
        return None
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if shape.gpu else "gloo")


def _trainer_class() -> Any:
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.execution.failure_handling import (
        DefaultFailurePolicy,
        FailureDecision,
    )
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class DeadWorkersOnly(DefaultFailurePolicy):
        """What a person has to mend is not tried again."""

        def make_decision(self, training_failed_error: Any) -> FailureDecision:
            if isinstance(_cause_of(training_failed_error), CorgiError):
                return FailureDecision.RAISE
            return super().make_decision(training_failed_error)

    class Trainer(DataParallelTrainer):
        """Ray's trainer (of which its TorchTrainer is a case) without three of its habits."""

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            policy = DeadWorkersOnly(arguments["failure_policy"].failure_config)
            return super()._initialize_and_run_controller(**arguments | {"failure_policy": policy})

        def _create_default_callbacks(self) -> list[Any]:
            # A process of its own, 3 s a training, to clean up after a controller that dies
            # alone; ours dies with the driver, and Ray frees a dead driver's resources.
            callbacks = super()._create_default_callbacks()
            return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]

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
