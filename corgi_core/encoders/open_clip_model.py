"""One open_clip encoder with its tokenizer and preprocessing, and its folder.

The folder is open_clip's own: `open_clip_config.json` (architecture and preprocessing),
`model.safetensors`, and, where the text tower or the tokenizer comes from transformers, their
`config.json` and tokenizer files. So it is read without a network, and holds no path of the machine
that wrote it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Self

import open_clip
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.encoders.fitting import check_weights_fit
from corgi_core.encoders.tokens import (
    TRANSFORMER,
    encoder_named,
    quiet_transformers,
    transformers_source,
)
from corgi_core.encoders.vision_transformer import image_features
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, write_json
from corgi_core.io.model_folder import digest_of_tensors

CONFIG, WEIGHTS, TOWER = "open_clip_config.json", "model.safetensors", "config.json"
_TEXT_BATCH = 256
_TEXT_PROJECTION = "text.proj."
_CONVERSION = Lock()  # threads share a model, whose tower is converted once
# what open_clip raises where a folder's parts are damaged or do not belong together
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def pretrained_architecture(architecture: str, tag: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of a built-in architecture, with the activation its weights need.

    OpenAI's weights, and some others, were trained with QuickGELU, x · sigmoid(1.702 x), and give
    wrong embeddings under GELU. open_clip notes this with the tag, but builds what the architecture
    says. A tag that says nothing leaves the architecture as it is: `roberta-ViT-B-32` has QuickGELU
    of its own.

    Args:
        architecture: A name of `open_clip.list_models()`, "ViT-B-16" for example.
        tag: A tag of `open_clip.list_pretrained_tags_by_model`, or the path of a weights file.

    Returns:
        The configuration, with "quick_gelu" set where the architecture or the tag asks for it.

    Raises:
        CorgiError: open_clip has no such architecture, or `tag` is empty.
    """
    config: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if config is None or not tag:
        raise CorgiError(
            f"there is no CLIP encoder {f'{architecture}/{tag}'.strip('/')!r}",
            'name one such as "ViT-B-16/openai", "hf-hub:<owner>/<model>", or a folder with '
            "open_clip_config.json and model.safetensors",
        )
    if open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False):
        config["quick_gelu"] = True
    return config


class OpenClipModel(nn.Module):
    """An open_clip model in eval mode.

    Args:
        name: What messages and reports call it.
        model: open_clip's CLIP, CustomTextCLIP or CoCa, with its preprocessing configuration set.
        architecture: Its `model_cfg`, from which open_clip builds the same model again.
        tokenizer: open_clip's tokenizer of it: captions → token ids.
    """

    model: Any  # CLIP, CustomTextCLIP or CoCa
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: Any, architecture: dict[str, Any], tokenizer: Any):
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.architecture = architecture
        self.tokenizer = tokenizer
        size = [self.image_size, self.image_size]
        self.preprocessing: dict[str, Any] = model.visual.preprocess_cfg | {"size": size}
        self.register_buffer("mean", _channels(self.preprocessing["mean"]), persistent=False)
        self.register_buffer("std", _channels(self.preprocessing["std"]), persistent=False)

    @property
    def width(self) -> int:
        """The width d_b of an embedding."""
        return int(self.architecture["embed_dim"])

    @property
    def image_size(self) -> int:
        """Side of the square image that the encoder reads, in pixels."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    @cached_property
    def digest(self) -> str:
        """Names architecture, preprocessing and weights."""
        weights = digest_of_tensors(self.model.state_dict())
        return digest_of(self._description(), weights)

    @property
    def _interpolation(self) -> str:
        return "bilinear" if self.preprocessing.get("interpolation") == "bilinear" else "bicubic"

    def encode_images(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Square images [n, 3, s, s] in [0, 1], any s → unit vectors [n, width].

        `dtype`: bfloat16 has a copy of the image tower compute; else the tower itself does.
        """
        if pixels.shape[-1] != self.image_size:
            pixels = F.interpolate(
                pixels, size=(self.image_size, self.image_size),
                mode=self._interpolation, antialias=True, align_corners=False,
            ).clamp(0, 1)  # fmt: skip
        pixels = (pixels - self.mean) / self.std
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if isinstance(self.model, open_clip.CoCa):  # its tower's outputs are not the features
            features: Tensor = self.model.encode_image(pixels)
        elif dtype == torch.bfloat16:
            with _CONVERSION:
                tower = self._bfloat16_tower
            features = image_features(tower, pixels.to(dtype))
        else:
            features = image_features(self.model.visual, pixels)
        return F.normalize(features.float(), dim=-1)

    @cached_property
    def _bfloat16_tower(self) -> nn.Module:
        """No part of the module: it is neither moved, nor saved, nor in the digest."""
        tower: nn.Module = deepcopy(self.model.visual).to(torch.bfloat16)
        return tower

    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions [n] → unit vectors [n, width]."""
        vectors = torch.empty(len(captions), self.width, device=self.mean.device)
        by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        for start in range(0, len(captions), _TEXT_BATCH):
            rows = by_length[start : start + _TEXT_BATCH]
            ids = self.tokenizer([captions[row] for row in rows]).to(self.mean.device)
            if isinstance(self.model, open_clip.CustomTextCLIP) and _is_transformers(self):
                # These towers mask the padding, so columns of padding alone change nothing.
                ids = ids[:, : int((ids != self.model.text.config.pad_token_id).sum(1).max())]
            vectors[rows] = F.normalize(self.model.encode_text(ids).float(), dim=-1)
        return vectors

    def save(self, folder: Path) -> None:
        """Write the model's files into `folder`, which exists; the caller makes it atomic."""
        write_json(folder / CONFIG, self._description())
        save_file(_contiguous(self.model.state_dict()), folder / WEIGHTS)
        if _is_transformers(self):
            self.model.text.config.save_pretrained(folder)
        if isinstance(self.tokenizer, HFTokenizer):
            self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Read what `save` wrote.

        Raises CorgiError where a file is missing or does not fit, or the weights exceed the memory.
        """
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise CorgiError(
                    f"{folder} is no open_clip model: {file} is missing",
                    "give a folder with open_clip_config.json and model.safetensors",
                )
        check_weights_fit(folder, name)
        description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        architecture = description.get("model_cfg", {})
        try:
            source = f"local-dir:{folder}"
            if _has_whole_text_tower(folder):
                towers = _text_tower_in(folder, architecture)
                model = open_clip.create_model_from_pretrained(
                    source, return_transform=False, **towers
                )
            else:
                model = _with_installed_text(folder, description)
            tokenizer = _tokenizer_in(folder, architecture["text_cfg"])
        except _UNREADABLE as error:
            raise CorgiError(
                f"{folder} cannot be loaded as an open_clip model ({error})",
                "check that its configuration and weights belong together",
            ) from error
        return cls(name, model, architecture, tokenizer)

    @classmethod
    def named(cls, name: str) -> Self:
        """Load "<architecture>/<tag>", "<architecture>/<weights file>" or "hf-hub:<owner>/<model>".

        "ViT-B-16/openai" is open_clip's ViT-B-16 with OpenAI's weights, built as these need it
        (`pretrained_architecture`). Weights of a file have no tag: name the architecture that they
        were trained in, "ViT-B-16-quickgelu" for example.

        Raises:
            CorgiError: open_clip knows no such encoder, or its weights cannot be loaded.
        """
        try:
            if name.startswith("hf-hub:"):
                built_in, tag = name, None
                architecture = open_clip.get_model_config(name)
            else:
                built_in, _, tag = name.partition("/")
                architecture = pretrained_architecture(built_in, tag)
            with warnings.catch_warnings():  # roberta-ViT-B-32's tag does not repeat its QuickGELU
                warnings.filterwarnings("ignore", "QuickGELU mismatch")
                model = open_clip.create_model_from_pretrained(
                    built_in,
                    pretrained=tag,
                    force_quick_gelu=architecture.get("quick_gelu", False),
                    return_transform=False,
                )
            tokenizer = open_clip.get_tokenizer(built_in)
        except (OSError, RuntimeError) as error:
            raise CorgiError(
                f"the CLIP encoder {name!r} cannot be loaded ({error})",
                "check the name against open_clip.list_pretrained() and the network, or give a "
                "local folder",
            ) from error
        return cls(name, model, architecture, tokenizer)

    def _description(self) -> dict[str, Any]:
        return {"model_cfg": self.architecture, "preprocess_cfg": self.preprocessing}


def _text_tower_in(folder: Path, architecture: dict[str, Any]) -> dict[str, Any]:
    """The text configuration with its transformers tower read from `folder`, where it is there."""
    text = architecture.get("text_cfg", {})
    if "hf_model_name" not in text or not (folder / TOWER).is_file():
        return {}
    return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}


def _has_whole_text_tower(folder: Path) -> bool:
    """Whether the weights hold the text encoder's own, which a released model leaves out."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        names = list(file.keys())
    return f"{_TEXT_PROJECTION}0.weight" not in names or any(
        name.startswith(TRANSFORMER) for name in names
    )


def _with_installed_text(folder: Path, description: dict[str, Any]) -> Any:
    """The model whose text encoder is installed, and all else of it in the folder's weights."""
    architecture = description["model_cfg"]
    text = architecture["text_cfg"]
    named = transformers_source(encoder_named(text["hf_model_name"]))
    installed = text | {"hf_model_name": named, "hf_model_pretrained": True}
    with quiet_transformers():
        model = open_clip.CustomTextCLIP(**architecture | {"text_cfg": installed})
    set_model_preprocess_cfg(model, description["preprocess_cfg"])
    missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    if unexpected or any(not name.startswith(TRANSFORMER) for name in missing):
        raise ValueError(f"weights that do not fit: {[*unexpected, *missing][:3]}")
    return model


def _tokenizer_in(folder: Path, text: dict[str, Any]) -> HFTokenizer | SimpleTokenizer:
    """The folder's tokenizer, or open_clip's own, as `open_clip.get_tokenizer` chooses."""
    if text.get("hf_tokenizer_name"):
        tokenizer: HFTokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        return tokenizer
    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    return _own_tokenizer(json.dumps({"context_length": length} | text.get("tokenizer_kwargs", {})))


@cache
def _own_tokenizer(arguments: str) -> SimpleTokenizer:
    """open_clip's own tokenizer, by its arguments as JSON: its vocabulary takes long to read."""
    return SimpleTokenizer(**json.loads(arguments))


def _is_transformers(encoder: OpenClipModel) -> bool:
    return "hf_model_name" in encoder.architecture["text_cfg"]


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
