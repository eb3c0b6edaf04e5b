"""Checkpoints: the newest undamaged one continues a run.

    checkpoints/step-000200/{model,ema,optimizer}.safetensors
                            state.json      the counters, and each file's SHA-256

A checkpoint's folder is renamed once it is complete. Loading takes the newest one whose
files match their digests, so a damaged one costs the steps since the one before, never the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from upath import UPath

from corgi_core.io.files import digest_of_file, read_json, write_json
from corgi_core.io.folders import atomic_folder, remove_folder
from corgi_core.io.read_errors import explained_read_error

CHECKPOINTS = 2  # that stay on disk
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what it is noticed by

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to continue: tensors by part and name, and its counters."""

    step: int
    parts: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors needs them: on the CPU, contiguous, none sharing memory."""
    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in tensors.items()}  # fmt: skip


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint under `folder`/checkpoints and remove all but the newest two."""
    with atomic_folder(_checkpoints(folder) / f"step-{checkpoint.step:06d}") as temporary:
        digests = {}
        for part, tensors in checkpoint.parts.items():
            file = temporary / f"{part}.safetensors"
            save_file(on_cpu(tensors), str(file))
            digests[file.name] = digest_of_file(file)
        write_json(temporary / "state.json", {**checkpoint.state, "sha256": digests})
    for old in checkpoints_of(folder)[CHECKPOINTS:]:
        remove_folder(old)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint under `folder`, or None; logs those that are damaged.

    Raises CorgiError for one that may be whole and cannot be read: the run would go on before it.
    """
    for path in checkpoints_of(folder):
        try:
            state = checked_state(path)
            parts = {Path(name).stem: load_file(path / name) for name in state.pop("sha256")}
            return Checkpoint(step_of(path), parts, state)
        except DAMAGE as damage:
            if (explained := explained_read_error(damage, path)) is not None:
                raise explained from damage
            log.warning("checkpoint %s is damaged (%s); the one before it is used", path, damage)
    return None


def checked_state(path: Path) -> dict[str, Any]:
    """What a checkpoint's state.json says; raises one of `DAMAGE` where its files do not match it.

    All of them are read to compare their digests.
    """
    state: dict[str, Any] = read_json(path / "state.json")
    for name, digest in state["sha256"].items():
        if digest_of_file(path / name) != digest:
            raise ValueError(f"{name} does not match its digest")
    return state


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint under `folder`; 0 without one."""
    return max(map(step_of, checkpoints_of(folder)), default=0)


def clear_checkpoints(folder: Path, after: int = -1) -> None:
    """Remove the checkpoints beyond step `after`, and what a killed run left half-written."""
    for path in checkpoints_of(folder):
        if step_of(path) > after:
            remove_folder(path)
    for path in _checkpoints(folder).glob(".step-*.tmp"):
        remove_folder(path)
    if after < 0:
        remove_folder(_checkpoints(folder))


def _checkpoints(folder: Path) -> Path:
    return folder / "checkpoints"


def checkpoints_of(folder: Path | UPath) -> list[Any]:
    """The folders of the checkpoints under `folder`, which need not be whole; the newest first."""
    return sorted((folder / "checkpoints").glob("step-*"), key=step_of, reverse=True)


def step_of(checkpoint: Path | UPath) -> int:
    """The step of a checkpoint, from its folder's name."""
    return int(checkpoint.name.removeprefix("step-"))
