"""The text towers of a saved CLIP ensemble, loaded without its image towers.

Importing open_clip takes seconds, and a prompt needs no image tower, so `corgi generate` starts
sooner with this. Where a text tower is open_clip's HFTextEncoder with mean pooling (the kind that
Corgi trains), transformers reads its part of `model.safetensors`; any other kind is loaded through
open_clip.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import ftfy
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from upath import UPath

from corgi_core.devices import device_of, inference
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.encoders.tokens import (
    TokenEncoder,
    encoder_named,
    mean_pooled,
    quiet_transformers,
)
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json
from corgi_core.io.folders import local_folder, published

ENSEMBLE = "ensemble.json"
ENSEMBLE_FORMAT = 2  # raised when the folder's content changes; 2: the activation of the weights
_PREFIX = "text."


def read_ensemble(folder: Path | UPath) -> dict[str, Any]:
    """What `ClipEnsemble.save` wrote about the ensemble: "names", "encoder_dims", "digest".

    Raises:
        CorgiError: there is no ensemble in `folder`, or another version of Corgi wrote it. Until
            format 2 pretrained encoders were built with GELU where they need QuickGELU.
    """
    folder = published(folder)
    if not (folder / ENSEMBLE).exists():
        raise CorgiError(
            f"{folder} holds no CLIP ensemble: {ENSEMBLE} is missing",
            "materialise clip_encoder again",
        )
    saved: dict[str, Any] = read_json(folder / ENSEMBLE)
    if (found := saved.get("format", 1)) != ENSEMBLE_FORMAT:
        raise CorgiError(
            f"the CLIP ensemble in {folder} was written by another version of Corgi "
            f"(format {found}, this version reads {ENSEMBLE_FORMAT})",
            "materialise clip_encoder again, or use the version that wrote it",
        )
    return saved


class TextTower(Protocol):
    """The text side of one CLIP encoder."""

    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions [n] → unit vectors [n, d_b]."""


class ClipTextTower(nn.Module):
    """f_txt of an ensemble: equal to `ClipEnsemble.encode_texts` of the same folder."""

    precision: str = "auto"

    def __init__(
        self, towers: Sequence[nn.Module], encoder_dims: Sequence[int], digest: str
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.encoder_dims = tuple(encoder_dims)
        self.digest = digest

    @property
    def device(self) -> torch.device:
        """Where the towers compute."""
        return device_of(self)

    @property
    def width(self) -> int:
        """The width d of an embedding."""
        return sum(self.encoder_dims)

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read the text towers from a folder that `ClipEnsemble.save` wrote."""
        saved = read_ensemble(folder)
        with local_folder(folder) as local:
            towers = [_tower(local / str(i), name) for i, name in enumerate(saved["names"])]
        return cls(towers, saved["encoder_dims"], saved["digest"])

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions [n] → float32 [n, d], each encoder's output scaled to norm √d_b."""
        with inference(self.device, self.precision):
            outputs = [cast(TextTower, tower).encode_texts(captions) for tower in self.towers]
        return scale_per_encoder(torch.cat(outputs, dim=1), self.encoder_dims)


class _PooledTower(nn.Module):
    """A transformers encoder, mean pooled and projected."""

    def __init__(self, tokens: TokenEncoder, projection: nn.Module) -> None:
        super().__init__()
        self.tokens = tokens
        self.projection = projection.eval().requires_grad_(False)

    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions [n] → unit vectors [n, d_b]."""
        cleaned = [_cleaned(caption) for caption in captions]
        pooled = mean_pooled(*self.tokens.encode(cleaned)).to(self.tokens.device)
        return F.normalize(self.projection(pooled).float(), dim=-1)


def _tower(folder: Path, name: str) -> nn.Module:
    text = read_json(folder / "open_clip_config.json")["model_cfg"]["text_cfg"]
    if text.get("hf_pooler_type") == "mean_pooler" and text.get("hf_proj_type") == "mlp":
        return _pooled_tower(folder, name, text)
    from corgi_core.encoders.open_clip_model import OpenClipModel

    return OpenClipModel.load(folder, name)


def _pooled_tower(folder: Path, name: str, text: dict[str, Any]) -> _PooledTower:
    from transformers import MODEL_MAPPING, AutoConfig, PreTrainedTokenizerFast

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        tensors = {
            key.removeprefix(_PREFIX): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118 (not a dictionary)
            if key.startswith(_PREFIX)
        }
    encoder = {
        key.removeprefix("transformer."): tensor
        for key, tensor in tensors.items()
        if key.startswith("transformer.")
    }
    first, last = tensors["proj.0.weight"], tensors["proj.2.weight"]
    projection = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0], bias=False),
        nn.GELU(),
        nn.Linear(last.shape[1], last.shape[0], bias=False),
    )
    projection.load_state_dict({"0.weight": first, "2.weight": last})
    if not encoder:
        tokens = TokenEncoder.load(encoder_named(text["hf_model_name"]), text["context_length"])
        return _PooledTower(tokens, projection)
    config = AutoConfig.from_pretrained(folder)
    family: Any = MODEL_MAPPING[type(config)]
    with quiet_transformers():
        model = family.from_pretrained(
            None, config=config, state_dict=encoder, add_pooling_layer=False
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return _PooledTower(TokenEncoder(name, model, tokenizer, text["context_length"]), projection)


def _cleaned(caption: str) -> str:
    """open_clip's cleaning: broken Unicode mended, HTML entities resolved, spaces made single."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split())
