"""What the benchmark of scale reads: made tars, a small text encoder, and the settings."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

SIDE = 32  # pixels of a JPEG
CELLS = 4  # of one colour each, to a side; three bits of its colour are bits of the number
PER_TAR = 10_000
TEXT_WIDTH = 32  # of a token
COLOURS = ("red", "green", "blue", "grey", "pink", "brown", "white", "black")
THINGS = ("cat", "dog", "tree", "house", "boat", "road", "cloud", "lamp", "chair", "river")


def write_tars(folder: Path, images: int) -> Path:
    """WebDataset tars of so many JPEGs with a caption each, no two of them the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, images, PER_TAR):
        with tarfile.open(folder / f"{first // PER_TAR:05d}.tar", "w") as tar:
            for number in range(first, min(images, first + PER_TAR)):
                _add(tar, f"{number:09d}.jpg", picture_of(number))
                _add(tar, f"{number:09d}.txt", caption_of(number).encode())
    return folder


def picture_of(number: int) -> bytes:
    """A JPEG of coloured cells, whose colours are the bits of the number."""
    bits = np.array([number >> bit & 1 for bit in range(3 * CELLS**2)], dtype=np.uint8)
    cells = 40 + 170 * bits.reshape(CELLS, CELLS, 3)
    pixels = cells.repeat(SIDE // CELLS, axis=0).repeat(SIDE // CELLS, axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def caption_of(number: int) -> str:
    """Three to five words."""
    thing, colour = THINGS[number % len(THINGS)], COLOURS[number // len(THINGS) % len(COLOURS)]
    return f"a {colour} {thing} {number // 1000}" + (" outside" if number % 3 else "")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_text_encoder(folder: Path) -> Path:
    """A BERT of one layer with random weights, beside the tokenizer of MiniLM."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from corgi_core.encoders.tokens import transformers_source

    tokenizer = PreTrainedTokenizerFast.from_pretrained(transformers_source("minilm"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=2 * TEXT_WIDTH, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_settings(path: Path, text_encoder: Path, workers: int, steps: int) -> Path:
    """The benchmark's preset: every model small, so that data and not products of matrices count.

    Args:
        path: The YAML file.
        text_encoder: A folder of `write_text_encoder`.
        workers: Of Ray; 0 is none.
        steps: Of each training.
    """
    training = {
        "steps": steps, "batch_size": 64, "warmup_steps": 2, "checkpoint_every": steps,
        "evaluate_every": steps,
    }  # fmt: skip
    settings = {
        "extends": "emoji-small",
        "workers": workers,
        "variants": ["shifted-k16"],
        "caption_subsets": ["10%"],
        "language_free": None,
        "data": {"limit": None, "shard_size": 1000, "test_fraction": 0.1,
                 "validation_fraction": 0.05},
        "encoders": {
            "text": str(text_encoder), "text_tokens": 8, "image_size": 32, "width": 32,
            "tower_channels": 8, "training": training,
        },
        "prior": {"width": 32, "layers": 1, "heads": 2, "training": training},
        "decoders": {
            "pca": {
                "image_size": 32, "components": 64, "width": 64, "vectors": 2, "vector_width": 32,
                "balanced": False, "num_steps": 4, "training": training,
            },
            "cascade": None, "gan": None, "lafite": None,
        },
        "evaluation": {"steps": [1, 4], "images": 256, "grid_rows": 2},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
