"""Ray Train around the one training loop. Imports no Dagster, so that workers need not either.

Ray starts the workers, joins them to a process group and replaces them when they die. All else is
the loop's own: a replaced worker goes on from the run folder's newest whole checkpoint, metrics
travel through the metrics log there, and the weights are read from there at the end.

Ray exports neither its failure policy, which would start a training again that a person has to
mend, nor the callback that costs 3 s a training, so that it can be left out: both are taken from
`ray.train.v2._internal` here alone, checked against Ray 2.60.0 (pyproject.toml keeps below 3).
"""

from __future__ import annotations

import platform
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file
from corgi_core.io.folders import remove_folder
from orchestration.resources.worker_shape import WorkerShape

if TYPE_CHECKING:
    from corgi_core.config import TrainingSettings
    from corgi_core.training.task import Task

MAX_FAILURES = 3  # times that dead workers are replaced in one training
POLL = 0.2  # seconds between two looks
NONCE = "nonce"  # the file by which workers know the driver's run folder …
NONCE_PATIENCE = 3.0  # … which a network's file system may show them seconds later


def fit(
    task: Task[Any], settings: TrainingSettings, folder: Path, name: str, shape: WorkerShape
) -> None:
    """Run the training on Ray workers until it is finished in `folder`.

    Ray's own run name is new every time: Ray silently resumes a name that it knows. Workers on a
    node where `folder` is another than here refuse to train, with a CorgiError.
    """
    import ray
    from ray.train import (
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )

    storage, nonce = folder / "ray", uuid.uuid4().hex
    with atomic_file(storage / NONCE) as temporary:
        temporary.write_text(nonce)
    trainer = _trainer_class()(
        train_on_worker,
        train_loop_config={
            "task": task, "settings": settings, "folder": folder, "name": name, "shape": shape,
            "nonce": nonce,
        },
        backend_config=_process_group(shape),
        scaling_config=ScalingConfig(
            num_workers=shape.workers,
            use_gpu=shape.gpus > 0,
            resources_per_worker={"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {}),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # typed as Ray Train V1's
            name=f"{name}-{nonce[:8]}",
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
    _check_shared(config["folder"], config["nonce"])
    torch.set_num_threads(min(shape.cpus, torch.get_num_threads()))  # OMP_NUM_THREADS, if set
    device = torch.device("cpu")
    if shape.gpus:
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


def _check_shared(folder: Path, nonce: str) -> None:
    """CorgiError unless `folder` holds the driver's nonce: then it is the driver's folder."""
    deadline = time.monotonic() + NONCE_PATIENCE
    while not _holds(folder / "ray" / NONCE, nonce):
        if time.monotonic() > deadline:
            raise CorgiError(
                f"the Ray node {platform.node()} does not share the run folder {folder}",
                "put CORGI_HOME on a file system that all nodes have at the same path, or train on "
                "one machine, without CORGI_RAY_ADDRESS",
            )
        time.sleep(POLL)


def _holds(path: Path, text: str) -> bool:
    with suppress(OSError):  # it is not there, or a network's file system is about to show another
        return path.read_text() == text
    return False


def _process_group(shape: WorkerShape) -> Any:
    """Torch's process group; one worker needs none, and Ray's controller then loads no torch.

    NCCL refuses two workers on one GPU, so workers with a share of one have gloo.
    """
    if shape.workers == 1:
        return None
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if shape.gpus == 1 else "gloo")


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
