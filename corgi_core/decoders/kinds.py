"""The kinds of decoders by name. A kind's modules are imported when it is first asked for."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from corgi_core.config.decoders import DECODERS
from corgi_core.errors import CorgiError

if TYPE_CHECKING:
    from corgi_core.decoders.decoder import Decoder
    from corgi_core.decoders.picture_task import PictureTask
    from corgi_core.encoders.clip import ClipEnsemble

_CLASSES = {  # (package, decoder, task)
    "pca": ("pca", "PCADecoder", "PCATask"),
    "cascade": ("cascade", "CascadeDecoder", "CascadeTask"),
    "gan": ("gan", "GanDecoder", "GanTask"),
    "lafite": ("lafite", "LafiteDecoder", "LafiteTask"),
    "stable_diffusion": ("stable_diffusion", "StableDiffusionDecoder", "StableDiffusionTask"),
}


def decoder_class(kind: str) -> type[Decoder]:
    """What draws. Raises CorgiError for an unknown kind."""
    package, decoder, _ = _classes(kind)
    found: type[Decoder] = getattr(_module(package, "decoder"), decoder)
    return found


def task_class(kind: str) -> type[PictureTask[Any, Any]]:
    """What is trained. Raises CorgiError for an unknown kind."""
    package, _, task = _classes(kind)
    found: type[PictureTask[Any, Any]] = getattr(_module(package, "task"), task)
    return found


def task_of(kind: str, clip: ClipEnsemble, **inputs: Any) -> PictureTask[Any, Any]:
    """The training of a kind of decoder; `clip` is for those alone that learn through it."""
    task = task_class(kind)
    if "clip" in {field.name for field in fields(task)}:
        inputs["clip"] = clip
    return task(**inputs)


def _module(package: str, name: str) -> Any:
    return import_module(f"corgi_core.decoders.{package}.{name}")


def _classes(kind: str) -> tuple[str, str, str]:
    if kind not in _CLASSES:
        raise CorgiError(
            f"there is no decoder {kind!r}",
            f"choose one of {', '.join(DECODERS)}, or materialise the decoder again",
        )
    return _CLASSES[kind]
