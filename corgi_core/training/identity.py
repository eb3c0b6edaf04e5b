"""A run's identity: its task, data and settings; a run folder belongs to one identity."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, read_json, write_json

PLAIN = (bool, int, float, str, Path, UPath)
LONGEST = 200  # characters; longer values are described by their digest


def identity_of(task: Any, settings: Any) -> dict[str, str]:
    """A flat, readable description of a training: {"task.images": digest, "settings.steps": …}.

    A value is described by its `digest` if it has one, by its fields if it is a dataclass, by its
    bytes if it is an array, and otherwise by itself.

    Raises:
        TypeError: a value has none of these descriptions.
    """
    return {
        "task": type(task).__qualname__,
        **_described("task", task),
        **_described("settings", settings),
    }


def claim(folder: Path | UPath, identity: dict[str, str], *, write: bool = True) -> None:
    """Mark `folder` as belonging to a training; a CorgiError if it belongs to another one."""
    path = folder / "identity.json"
    if not path.exists():
        if write:
            write_json(path, identity)
        return
    there = read_json(path)
    if digest_of(there) == digest_of(identity):
        return
    differing = [
        f"{key} is {there.get(key)} there and {identity.get(key)} here"
        for key in sorted(there.keys() | identity.keys())
        if there.get(key) != identity.get(key)
    ]
    raise CorgiError(
        f"the run folder {folder} belongs to another training: {'; '.join(differing[:3])}",
        "choose another run name, or remove that folder",
    )


def _described(name: str, value: Any) -> dict[str, str]:
    if isinstance(digest := getattr(value, "digest", None), str):
        return {name: digest}
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.compare]
        return _merged((f"{name}.{field}", getattr(value, field)) for field in fields)
    if isinstance(value, Mapping):
        return _merged((f"{name}.{key}", value[key]) for key in sorted(value))
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        data = value if value.dtype != object else value.astype(str)
        shape = repr((data.shape, data.dtype.str)).encode()
        return {name: hashlib.sha256(shape + data.tobytes()).hexdigest()[:16]}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, tuple | list) and not all(isinstance(item, PLAIN) for item in value):
        return _merged((f"{name}.{index}", item) for index, item in enumerate(value))
    if value is None or isinstance(value, (*PLAIN, tuple, list)):
        text = str(value)
        return {name: text if len(text) <= LONGEST else digest_of(text)}
    raise TypeError(f"{name} ({type(value).__name__}) needs a `digest` to be part of a training")


def _merged(items: Iterable[tuple[str, Any]]) -> dict[str, str]:
    described: dict[str, str] = {}
    for name, value in items:
        described |= _described(name, value)
    return described
