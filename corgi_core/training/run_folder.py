"""A run's folder: claimed by one training before it starts, and its result once it is finished.

`finished.json` is written last and holds the weights' SHA-256, so a run is finished or it is not.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from safetensors.torch import load_file, save_file
from upath import UPath

from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of_file, is_local, read_json, write_json
from corgi_core.io.full_disk import full_disk_explained
from corgi_core.training.checkpoint import clear_checkpoints, newest_step, on_cpu
from corgi_core.training.identity import claim, identity_of
from corgi_core.training.task import M, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult(Generic[M]):
    """A finished training: the averaged model in eval mode, and the run's numbers."""

    model: M
    steps: int
    metrics: dict[str, float]  # the last training losses and held-out metrics
    metrics_log: Path
    seconds: float  # spent in the steps that count, over all attempts; no evaluation
    skipped: int  # steps left out because their loss or gradients were not finite
    already_finished: bool  # nothing was trained now: the run had been finished before
    undelivered: int = 0  # entries of the metrics log that its follower did not accept


def prepare_run_folder(
    task: Task[Any],
    settings: TrainingSettings,
    folder: Path | UPath,
    workers: int,
    *,
    write: bool = True,
) -> Path:
    """The run folder, claimed for this training; CorgiError for whatever must stop it at once.

    With `write` the task's data are prepared, too: what all workers share is written there.
    """
    if not is_local(folder):
        raise CorgiError(
            f"the run folder {folder} is not on a file system",
            "train in a folder that all workers can reach as files",
        )
    check_division(task, settings, workers)
    folder, identity = Path(str(folder)), identity_of(task, settings)
    claim(folder, identity, write=False)
    if write:
        with explain_full_disk(folder):
            task.prepare_data(folder)
            if task.rows < 1:
                raise CorgiError(
                    "there are no samples to train on", "check the dataset and its split"
                )
            claim(folder, identity)
    return folder


def check_division(task: Task[Any], settings: TrainingSettings, workers: int) -> None:
    """CorgiError unless a batch can be divided into the microbatches of so many workers."""
    chunks, batch = settings.accumulation, settings.batch_size
    if chunks > 1 and task.compares_samples:
        raise CorgiError(
            f"this loss compares the samples of a batch: {chunks} microbatches cannot compute it",
            "set accumulation to 1, and more workers or a smaller batch_size to save memory",
        )
    if batch % (workers * chunks):
        raise CorgiError(
            f"a batch of {batch} cannot be divided among {workers} workers, each with {chunks} "
            "microbatches",
            f"set batch_size to a multiple of {workers * chunks} (workers times accumulation)",
        )


def explain_full_disk(folder: Path) -> AbstractContextManager[None]:
    """Turn a full disk into a CorgiError; no half-written file is left, the checkpoints stay."""
    return full_disk_explained(
        folder, lambda: f"train again; the run goes on from step {newest_step(folder)}"
    )


def finished_training(
    task: Task[M], folder: Path | UPath, device: torch.device | str = "cpu"
) -> TrainingResult[M] | None:
    """The result of a run that was finished in `folder`; None without one, or if it is damaged."""
    folder = Path(str(folder))
    weights = folder / "final.safetensors"
    if not (folder / "finished.json").exists() or not weights.exists():
        return None
    finished = read_json(folder / "finished.json")
    if digest_of_file(weights) != finished.pop("sha256"):
        log.warning("%s is damaged; the run is trained again", weights)
        return None
    log.info("the run in %s is finished already; its weights are taken as they are", folder)
    model = task.build().to(device)
    task.restore(model, load_file(weights))
    model.eval().requires_grad_(False)
    return TrainingResult(
        model=model, metrics_log=folder / "metrics.jsonl", already_finished=True, **finished
    )


def finish(task: Task[M], folder: Path, result: TrainingResult[M]) -> None:
    """Write the averaged weights and the result's numbers, and remove the checkpoints."""
    weights = folder / "final.safetensors"
    with atomic_file(weights) as temporary:
        save_file(on_cpu(task.stored(result.model)), str(temporary))
    finished = {
        "sha256": digest_of_file(weights),
        "steps": result.steps,
        "metrics": result.metrics,
        "seconds": result.seconds,
        "skipped": result.skipped,
    }
    write_json(folder / "finished.json", finished)
    clear_checkpoints(folder)
