"""Fits text towers to precomputed image embeddings, by CLIP's loss, on the training captions.

Two captions of one image in a batch count as each other's negatives; in a batch of 512 out of
thousands of images there are few such pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corgi_core.config import EncoderSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import TRAIN, VALIDATION
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.contrastive import (
    HELD_OUT_IMAGES,
    LARGEST_SCALE,
    global_clip_loss,
    held_out_retrieval,
    pooled_captions,
)
from corgi_core.encoders.fitted_text_tower import FittedTextTower, projection
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom
from corgi_core.training.rows import ChosenRows
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

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


class Pairs(NamedTuple):
    """Captions and images: pooled text float32 [n, w]; image embeddings [n, d] as stored."""

    pooled: Tensor
    image: Tensor


@dataclass
class TextTowerTask(Task[TextHeads]):
    """Training of the text towers (a `Task` of the training loop). A row is a training caption."""

    settings: EncoderSettings
    images: Dataset
    embeddings: ArrayStore

    compares_samples = True

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """The widths d_b of the encoders that made the embeddings."""
        return tuple(self.embeddings.spec["encoder_dims"])

    @cached_property
    def _text(self) -> TokenEncoder:
        return TokenEncoder.load(self.settings.text, self.settings.text_tokens)

    def prepare_data(self, folder: Path) -> None:
        """Pool all captions once, in <folder>/pooled, and count them: others read that."""
        self._texts = pooled_captions(self._text, self.images, folder / "pooled")
        self._training.prepare(folder, "training-captions")

    @cached_property
    def _texts(self) -> ArrayStore:
        raise RuntimeError("prepare_data comes first")

    @cached_property
    def _training(self) -> ChosenRows:
        return ChosenRows(self._texts, SplitKeys(self.images, TRAIN))

    @property
    def rows(self) -> int:
        """The number of captions of training embeddings."""
        if not (count := len(self._training)):
            raise CorgiError(
                "no training embedding has a caption, so no text tower can be fitted to them",
                "ingest captions with the embeddings (--caption-column names their column)",
            )
        return count

    @property
    def shard_rows(self) -> list[int]:
        """The number of captions of training embeddings in each shard."""
        return self._training.shard_rows

    def build(self) -> TextHeads:
        """The projections, freshly initialised."""
        return TextHeads(self._text.width, self.encoder_dims)

    def batch(self, rows: Tensor, random: StepRandom) -> Pairs:
        """The captions of rows [b] with their images."""
        return self._pairs(self._training, rows)

    def loss(self, model: nn.Module, batch: Pairs, random: StepRandom) -> dict[str, Tensor]:
        """CLIP's symmetric cross-entropy under every encoder, averaged."""
        texts, scale = model(batch.pooled)
        image = unit_per_encoder(batch.image.float(), self.encoder_dims)
        images = torch.split(image, list(self.encoder_dims), dim=1)
        losses = [global_clip_loss(i, t, scale) for i, t in zip(images, texts, strict=True)]
        return {"loss": torch.stack(losses).mean(), "logit_scale": scale}

    @torch.no_grad()
    def evaluate(self, model: TextHeads, workers: Meeting = ALONE) -> dict[str, float]:
        """Retrieval where caption i belongs to image i, of at most 4,096 validation images."""
        captions = ChosenRows(self._texts, SplitKeys(self.images, VALIDATION), first_only=True)
        pairs = self._pairs(captions, captions.spaced(HELD_OUT_IMAGES))
        pooled, image = (part.to(model.logit_scale.device) for part in pairs)
        if not len(image):
            return {}
        image = unit_per_encoder(image.float(), self.encoder_dims)
        text = torch.cat(model(pooled)[0], dim=1)
        return held_out_retrieval(text, image, self.encoder_dims)

    def _pairs(self, captions: ChosenRows, rows: Tensor) -> Pairs:
        return Pairs(*captions.gather(rows, (self._texts, "pooled"), (self.embeddings, "image")))

    def ensemble(self, model: TextHeads, card: Mapping[str, Any]) -> ClipEnsemble:
        """The fitted text towers as the ensemble that the embeddings belong to."""
        spec = self.embeddings.spec
        towers = []
        for name, head in zip(spec["names"], model.heads, strict=True):
            assert isinstance(head, nn.Sequential)
            towers.append(FittedTextTower(name, self._text, head, spec["encoder"]))
        return ClipEnsemble(towers, card)
