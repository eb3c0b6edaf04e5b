"""A text tower fitted to precomputed image embeddings, whose image tower is not at hand.

It is a frozen text encoder; the mean of its tokens is projected into the space of the image
embeddings. `train_text_tower` fits the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of, read_json, write_json
from corgi_core.io.model_folder import digest_of_tensors

CONFIG, WEIGHTS = "fitted_text.json", "projection.safetensors"
DROPOUT = 0.1


def projection(text_width: int, width: int) -> nn.Sequential:
    """The untrained projection of pooled text [n, text_width] → [n, width], one linear layer.

    A hidden layer memorises the training captions: on 5,800 photos it found 95 % of their
    images first and 41 % of the test captions', where one layer finds 70 % and 51 %. A prior
    that learns from such training captions trusts them too much.
    """
    return nn.Sequential(
        nn.LayerNorm(text_width), nn.Dropout(DROPOUT), nn.Linear(text_width, width)
    )


def width_of(head: nn.Sequential) -> int:
    """The width that a `projection` projects to."""
    last = head[-1]
    assert isinstance(last, nn.Linear)
    return last.out_features


class FittedTextTower(nn.Module):
    """The text side of the CLIP encoder `name`; `space` is the digest of the embeddings' space."""

    def __init__(self, name: str, text: TokenEncoder, head: nn.Sequential, space: str) -> None:
        super().__init__()
        self.name, self.space = name, space
        self.text = text
        self.width = width_of(head)
        self.head = head.eval().requires_grad_(False)

    @property
    def image_size(self) -> int:
        """CorgiError: there is no image tower."""
        raise self._no_images()

    @cached_property
    def digest(self) -> str:
        """Names the projection, the text encoder under it, and the space that it was fitted to."""
        return digest_of(self.text.digest, digest_of_tensors(self.head.state_dict()), self.space)

    def encode_images(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """CorgiError: there is no image tower."""
        raise self._no_images()

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Captions [n] → unit vectors [n, width]."""
        pooled = self.text.pooled(list(captions)).to(self.text.device)
        return F.normalize(self.head(pooled).float(), dim=-1)

    def save(self, folder: Path) -> None:
        """Write the projection into `folder`, and which text encoder is under it."""
        save_file(self.head.state_dict(), folder / WEIGHTS)
        config = {
            "text": self.text.name, "text_tokens": self.text.max_tokens,
            "text_digest": self.text.digest, "text_width": self.text.width,
            "width": self.width, "space": self.space,
        }  # fmt: skip
        write_json(folder / CONFIG, config)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Read what `save` wrote; CorgiError where the text encoder has other weights today."""
        config = read_json(folder / CONFIG)
        text = TokenEncoder.load(config["text"], config["text_tokens"])
        if text.digest != config["text_digest"]:
            raise CorgiError(
                f"the text encoder {config['text']!r} is not the one that {folder} was fitted on",
                "install that version again, or materialise clip_encoder again",
            )
        head = projection(config["text_width"], config["width"])
        head.load_state_dict(load_file(folder / WEIGHTS))
        return cls(name, text, head, config["space"])

    def _no_images(self) -> CorgiError:
        return CorgiError(
            f"the image encoder {self.name!r} is not at hand: its embeddings are precomputed",
            "ingest images instead, with an encoder that can be loaded",
        )
