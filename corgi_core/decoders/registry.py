"""The kinds of decoders by name, and the one way to load a decoder of any kind.

A kind is registered by the path of its classes, "module:Class", which are imported when they are
first asked for. Corgi's own kinds are registered here; yours is added by a call of `register`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upath import UPath

from corgi_core.config import DECODER_SETTINGS, DecoderSettings, settings_from
from corgi_core.errors import CorgiError
from corgi_core.io.model_folder import read_model_folder

if TYPE_CHECKING:
    from corgi_core.decoders.decoder import Decoder
    from corgi_core.decoders.task import DecoderTask
    from corgi_core.encoders.clip import ClipEnsemble


@dataclass(frozen=True)
class Kind:
    """Where the classes of a kind of decoder are, "module:Class"."""

    decoder: str
    task: str


_KINDS = {
    "pca": Kind(
        "corgi_core.decoders.pca.decoder:PCADecoder", "corgi_core.decoders.pca.task:PCATask"
    ),
    "cascade": Kind(
        "corgi_core.decoders.cascade.decoder:CascadeDecoder",
        "corgi_core.decoders.cascade.task:CascadeTask",
    ),
    "gan": Kind(
        "corgi_core.decoders.gan.decoder:GanDecoder", "corgi_core.decoders.gan.task:GanTask"
    ),
    "lafite": Kind(
        "corgi_core.decoders.gan.decoder:LafiteDecoder",
        "corgi_core.decoders.gan.lafite:LafiteTask",
    ),
    "stable_diffusion": Kind(
        "corgi_core.decoders.stable_diffusion.decoder:StableDiffusionDecoder",
        "corgi_core.decoders.stable_diffusion.task:StableDiffusionTask",
    ),
}


def register(kind: str, *, decoder: str, task: str, settings: type[DecoderSettings]) -> None:
    """Add a kind of decoder, so that presets, training and `load_decoder` know it by its name.

    Args:
        kind: The name, as `settings.kind`. A name that is registered already is replaced.
        decoder: "module:Class" of the `Decoder`.
        task: "module:Class" of the `DecoderTask` that trains it.
        settings: The class of its settings.

    Raises:
        CorgiError: If the settings have another kind, or a path is not "module:Class".
    """
    if settings.kind != kind:
        raise CorgiError(
            f"the settings of the decoder {kind!r} have the kind {settings.kind!r}",
            "give both the same name",
        )
    for path in (decoder, task):
        if not all(path.partition(":")):
            raise CorgiError(f"{path!r} names no class", 'give it as "module:Class"')
    DECODER_SETTINGS[kind] = settings
    _KINDS[kind] = Kind(decoder, task)


def decoder_class(kind: str) -> type[Decoder]:
    """The decoder of that kind. Raises CorgiError for an unknown kind."""
    found: type[Decoder] = _imported(_kind(kind).decoder)
    return found


def task_class(kind: str) -> type[DecoderTask[Any, Any]]:
    """The training of that kind. Raises CorgiError for an unknown kind."""
    found: type[DecoderTask[Any, Any]] = _imported(_kind(kind).task)
    return found


def decoder_task(
    settings: DecoderSettings, clip: ClipEnsemble | None, **inputs: Any
) -> DecoderTask[Any, Any]:
    """The training of a decoder.

    Args:
        settings: The decoder's settings, whose kind decides the task's class.
        clip: The CLIP encoders, passed to the tasks that have a field `clip`.
        **inputs: The fields of `DecoderTask` other than `settings`.
    """
    task = task_class(settings.kind)
    if "clip" in {field.name for field in fields(task)}:
        inputs["clip"] = clip
    return task(settings=settings, **inputs)


def load_decoder(folder: Path | UPath) -> Decoder:
    """Read the model folder of a decoder of any kind, in evaluation mode on the CPU.

    Raises:
        CorgiError: If the folder holds no decoder of a known kind, or its parts do not fit.
    """
    saved = read_model_folder(folder, "decoder")
    kind = saved.config.get("decoder", "")
    decoder = decoder_class(kind)
    encoders, shape = saved.config["encoders"], saved.config["shape"]
    if sum(encoders["encoder_dims"]) != shape["embedding_width"]:
        raise CorgiError(
            f"{folder} holds a decoder for embeddings of width {shape['embedding_width']}, but "
            f"the encoder_dims of its CLIP encoders are {encoders['encoder_dims']}",
            "materialise the decoder again",
        )
    network = decoder.build(shape)
    try:
        network.load_state_dict(saved.tensors)
    except RuntimeError as failure:
        raise CorgiError(
            f"the weights in {folder} are not those of a {kind} decoder as this version builds it",
            "materialise the decoder again, or use the version that wrote it",
        ) from failure
    settings = settings_from(DECODER_SETTINGS[kind], saved.config["settings"])
    return decoder(network.eval(), settings, encoders, saved.card)


def _kind(kind: str) -> Kind:
    if kind not in _KINDS:
        raise CorgiError(
            f"there is no decoder {kind!r}",
            f"choose one of {', '.join(_KINDS)}, or register it: corgi_core.decoders.registry",
        )
    return _KINDS[kind]


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
