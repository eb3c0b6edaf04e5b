"""A pipeline's folder made small enough to ship: float16, without an installed text encoder.

What is computed with it is float32: weights are converted when they are read. Digests are those of
the rounded weights, so the parts of the small folder fit each other, and no others.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.clip_text import ENSEMBLE, read_ensemble
from corgi_core.encoders.open_clip_model import CONFIG, TOWER, WEIGHTS, OpenClipModel
from corgi_core.encoders.tokens import MINILM, TRANSFORMER, portable_name
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, read_json, write_json
from corgi_core.io.folders import atomic_folder
from corgi_core.io.model_folder import CARD, read_model_folder, write_model_folder
from corgi_core.pipeline import PIPELINE, CorgiPipeline, digests_of

PAGE = "README.md"
DIVISORS = ("std", "running_var")
"""Tensors that something is divided by: whitening's, and batch normalisation's."""


def write_compact(pipeline: CorgiPipeline, folder: Path, page: str, card: Mapping[str, Any]) -> int:
    """Write a pipeline as a small folder, which `CorgiPipeline.from_pretrained` reads.

    Args:
        pipeline: Its text encoder and those of its CLIP encoders are "minilm".
        folder: Where to; it is replaced whole or not at all.
        page: The model card for people, Markdown.
        card: The model card for programs.

    Returns:
        The size of the folder's files in bytes.

    Raises:
        CorgiError: Another text encoder; or a weight that is not finite.
    """
    _check_text_encoder(pipeline.tokens.name)
    with TemporaryDirectory() as scratch, atomic_folder(folder) as made:
        whole, small = Path(scratch) / "whole", Path(str(made))
        pipeline.save_pretrained(whole)
        encoder = _write_clip(whole / "clip", small / "clip")
        for part in ("prior", "decoder"):
            _write_model(whole / part, small / part, part, encoder)
        description = read_json(whole / PIPELINE)
        write_json(small / PIPELINE, description | {"files": digests_of(small)})
        with atomic_file(small / PAGE) as file:
            file.write_text(page, encoding="utf-8")
        write_json(small / CARD, dict(card))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors as float16, those that it cannot hold as float32.

    Float16 holds numbers up to 65,504 in size. Smaller ones than 3e-8 become 0, which is nothing
    beside a tensor's other weights, but not where one divides by it: a tensor whose name is one of
    `DIVISORS` stays float32 if that happens.

    Raises:
        CorgiError: A number is not finite.
    """
    return {name: _halved(name, tensor) for name, tensor in tensors.items()}


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if not bool(torch.isfinite(tensor).all()):
        raise CorgiError(f"{name} has numbers that are not finite", "train the model again")
    half = tensor.half()
    is_held = bool(torch.isfinite(half).all())
    if name.rpartition(".")[2] in DIVISORS:
        is_held &= torch.equal(half == 0, tensor == 0)
    return half if is_held else tensor.float()


def _write_clip(whole: Path, small: Path) -> str:
    """The encoders without their text encoder; returns the digest of what is read back."""
    saved = read_ensemble(whole)
    encoders = []
    for number, name in enumerate(saved["names"]):
        source, folder = whole / str(number), small / str(number)
        text = read_json(source / CONFIG)["model_cfg"]["text_cfg"]
        _check_text_encoder(text.get("hf_model_name", name))
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(WEIGHTS, TOWER))
        tensors = load_file(source / WEIGHTS)
        own = {name: each for name, each in tensors.items() if not name.startswith(TRANSFORMER)}
        save_file(halved(own), folder / WEIGHTS)
        encoders.append(OpenClipModel.load(folder, name))
    digest = ClipEnsemble(encoders).digest
    write_json(small / ENSEMBLE, saved | {"digest": digest})
    write_json(small / CARD, read_json(whole / CARD))
    return digest


def _write_model(whole: Path, small: Path, part: str, encoder: str) -> None:
    saved = read_model_folder(whole, part)
    config = {k: v for k, v in saved.config.items() if k not in ("format", "kind", "weights")}
    config["encoders"] |= {"encoder": encoder}
    write_model_folder(small, part, config, halved(saved.tensors), saved.card)


def _check_text_encoder(name: str) -> None:
    if name not in (MINILM, portable_name(MINILM)):
        raise CorgiError(
            f"the text encoder {name!r} is no installed package, so it would have to be shipped",
            f"train with --set encoders.text={MINILM}",
        )
