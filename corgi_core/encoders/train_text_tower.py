"""Fits text towers to precomputed image embeddings, by CLIP's loss, on the training captions.

Two captions of one image in a batch count as each other's negatives; in a batch of 512 out of
thousands of images there are few such pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import EncoderSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.contrastive import (
    LARGEST_SCALE,
    captions_by_split,
    global_clip_loss,
    held_out_retrieval,
)
from corgi_core.encoders.fitted_text_tower import FittedTextTower, projection
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import Task

FIRST_SCALE = math.log(1 / 0.07)  # of the logits, as in CLIP


class TextHeads(nn.Module):
    """A projection into each encoder's space, and the logits' scale."""

    def __init__(self, text_width: int, encoder_dims: tuple[int, ...]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(projection(text_width, width) for width in encoder_dims)
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def forward(self, pooled: Tensor) -> tuple[list[Tensor], Tensor]:
        """Pooled text [n, w] → unit vectors [n, d_b] for each encoder, and the scale []."""
        texts = [F.normalize(head(pooled).float(), dim=-1) for head in self.heads]
        return texts, self.logit_scale.clamp(max=LARGEST_SCALE).exp()


@dataclass
class TextTowerTask(Task[TextHeads]):
    """Training of the text towers (a `Task` of the training loop). A row is a training caption."""

    settings: EncoderSettings
    images: Dataset
    embeddings: ArrayStore

    compares_samples: ClassVar[bool] = True

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """The widths d_b of the encoders that made the embeddings."""
        return tuple(self.embeddings.spec["encoder_dims"])

    @cached_property
    def _text(self) -> TokenEncoder:
        return TokenEncoder.load(self.settings.text, self.settings.text_tokens)

    @cached_property
    def _captions(self) -> dict[str, list[tuple[str, str]]]:
        captions = captions_by_split(self.images)
        if not captions["train"]:
            raise CorgiError(
                "no training embedding has a caption, so no text tower can be fitted to them",
                "ingest captions with the embeddings (--caption-column names their column)",
            )
        return captions

    @cached_property
    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Pooled text [n, w] and image embeddings [n, d], unit under each encoder, by split."""
        image = torch.from_numpy(self.embeddings.read("image")).float()
        image = unit_per_encoder(image, self.encoder_dims)
        pairs = {}
        for split, captions in self._captions.items():
            rows = self.embeddings.rows_of(key for key, _ in captions)
            pooled = self._text.pooled([caption for _, caption in captions])
            pairs[split] = pooled, image[torch.from_numpy(rows)]
        return pairs

    @property
    def rows(self) -> int:
        """The number of captions of training embeddings."""
        return len(self._captions["train"])

    def build(self) -> TextHeads:
        """The projections, freshly initialised."""
        return TextHeads(self._text.width, self.encoder_dims)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """CLIP's symmetric cross-entropy under every encoder, averaged."""
        pooled, image = (part[rows].to(random.device) for part in self._pairs["train"])
        texts, scale = model(pooled)
        images = torch.split(image, list(self.encoder_dims), dim=1)
        losses = [global_clip_loss(i, t, scale) for i, t in zip(images, texts, strict=True)]
        return {"loss": torch.stack(losses).mean(), "logit_scale": scale}

    @torch.no_grad()
    def evaluate(self, model: TextHeads) -> dict[str, float]:
        """Held-out retrieval: caption i belongs to image i, of all held-out images."""
        pooled, image = (part.to(model.logit_scale.device) for part in self._pairs["test"])
        if not len(image):
            return {}
        text = torch.cat(model(pooled)[0], dim=1)
        return held_out_retrieval(text, image, self.encoder_dims)

    def ensemble(self, model: TextHeads, card: Mapping[str, Any]) -> ClipEnsemble:
        """The fitted text towers as the ensemble that the embeddings belong to."""
        spec = self.embeddings.spec
        towers = []
        for name, head in zip(spec["names"], model.heads, strict=True):
            assert isinstance(head, nn.Sequential)
            towers.append(FittedTextTower(name, self._text, head, spec["encoder"]))
        return ClipEnsemble(towers, card)
