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

from corgi_core.io.files import digest_of_file, read_json, write_json
from corgi_core.io.folders import atomic_folder, remove_folder

CHECKPOINTS = 2  # that stay on disk

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
    for old in _newest_first(folder)[CHECKPOINTS:]:
        remove_folder(old)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint under `folder`, or None; logs those that are damaged."""
    for path in _newest_first(folder):
        try:
            state = read_json(path / "state.json")
            digests = state.pop("sha256")
            for name, digest in digests.items():
                if digest_of_file(path / name) != digest:
                    raise ValueError(f"{name} does not match its digest")
            parts = {Path(name).stem: load_file(path / name) for name in digests}
            return Checkpoint(_step_of(path), parts, state)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as damage:
            log.warning("checkpoint %s is damaged (%s); the one before it is used", path, damage)
    return None


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint under `folder`; 0 without one."""
    return max(map(_step_of, _newest_first(folder)), default=0)


def clear_checkpoints(folder: Path, after: int = -1) -> None:
    """Remove the checkpoints beyond step `after`, and what a killed run left half-written."""
    for path in _newest_first(folder):
        if _step_of(path) > after:
            remove_folder(path)
    for path in _checkpoints(folder).glob(".step-*.tmp"):
        remove_folder(path)
    if after < 0:
        remove_folder(_checkpoints(folder))


def _checkpoints(folder: Path) -> Path:
    return folder / "checkpoints"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(_checkpoints(folder).glob("step-*"), key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
