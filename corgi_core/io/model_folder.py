"""A model is one folder: `config.json`, `model.safetensors`, `card.json` (design: data contracts).

`config.json` says how to build the network, `model.safetensors` holds every tensor that it needs
(a prior's bank too), `card.json` says where it comes from: data versions, encoders, metrics. The
configuration carries the weights' digest, so parts of two models are never taken for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import (
    atomic_file,
    digest_of,
    digest_of_bytes,
    digest_of_file,
    local_file,
    read_json,
    write_json,
)
from corgi_core.io.folders import atomic_folder, published

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "card.json"
FORMAT = 2  # raised when names inside configurations or weights change


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    card: dict[str, Any]


def write_model_folder(
    folder: Path | UPath,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
) -> str:
    """Write the three files, whole or not at all; returns the weights' digest."""
    content = _serialised(tensors)
    digest = digest_of_bytes(content)
    with atomic_folder(folder) as temporary:
        with atomic_file(temporary / WEIGHTS) as file:
            file.write_bytes(content)
        write_json(temporary / CONFIG, _whole_config(kind, digest, config))
        write_json(temporary / CARD, dict(card))
    return digest


def digest_of_model(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """What `digest_of_config` says once `write_model_folder` has written this model."""
    return digest_of_config(_whole_config(kind, digest_of_tensors(tensors), config))


def digest_of_config(config: Mapping[str, Any]) -> str:
    """Names what a model gives, by its folder's configuration.

    That is the weights and what they are used with: shape, encoders, and settings such as guidance,
    sampler and steps. Left out is how the weights were trained, which the weights speak for.
    """
    described = {name: value for name, value in config.items() if name != "format"}
    return digest_of(_without_training(described))


def _without_training(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_training(each) for k, each in value.items() if k != "training"}
    return [_without_training(each) for each in value] if isinstance(value, list | tuple) else value


def _whole_config(kind: str, weights: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model folder's `config.json` holds."""
    return {"format": FORMAT, "kind": kind, "weights": weights} | dict(config)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The digest that `write_model_folder` gives these weights, without writing them."""
    return digest_of_bytes(_serialised(tensors))


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_model_folder(folder: Path | UPath, kind: str) -> ModelFolder:
    """Read and check a model folder.

    Raises CorgiError where a file is missing, where the folder holds another `kind` of model or was
    written in another format, or where the weights are not those of the configuration.
    """
    folder = published(folder)
    _check_there(folder, CONFIG, WEIGHTS, CARD)
    config = read_model_config(folder, kind)
    digest = digest_of_file(folder / WEIGHTS)
    if digest != config["weights"]:
        raise CorgiError(
            f"{folder / WEIGHTS} has digest {digest}, but {CONFIG} was written for "
            f"{config['weights']}",
            "copy the whole folder again, or materialise the model again",
        )
    return ModelFolder(config, _read_tensors(folder / WEIGHTS), read_json(folder / CARD))


def read_model_config(folder: Path | UPath, kind: str) -> dict[str, Any]:
    """Read and check the configuration of a model folder, without its weights.

    Raises CorgiError as `read_model_folder` does.
    """
    folder = published(folder)
    _check_there(folder, CONFIG)
    config: dict[str, Any] = read_json(folder / CONFIG)
    if config.get("kind") != kind:
        raise CorgiError(
            f"{folder / CONFIG} describes a {config.get('kind')!r}, not a {kind!r}",
            f"give the folder of a {kind}",
        )
    if config.get("format") != FORMAT:
        raise CorgiError(
            f"{folder} was written by another version of Corgi "
            f"(format {config.get('format', 1)}, this version reads {FORMAT})",
            "materialise the model again, or use the version that wrote it",
        )
    return config


def _check_there(folder: Path | UPath, *names: str) -> None:
    for name in names:
        if not (folder / name).exists():
            raise CorgiError(
                f"{folder} is no model folder: {name} is missing",
                "give a folder written by Corgi, or materialise the model again",
            )


def _read_tensors(path: Path | UPath) -> dict[str, Tensor]:
    """The tensors of a file; what is stored in half precision to save space, as float32."""
    import torch
    from safetensors.torch import load_file

    with local_file(path) as local:
        tensors = load_file(str(local))
    return {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}
