"""Embeddings that priors and baselines predict for held-out captions, stored chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.config import InferencePrecision
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.revisions import SAMPLED_EMBEDDINGS_REVISION
from corgi_core.evaluation.held_out import AnyCase, Chunks
from corgi_core.evaluation.predictors import Predict, Predictor, Source
from corgi_core.evaluation.sharing import Columns, in_batches
from corgi_core.evaluation.stored_models import Latest
from corgi_core.prior.model import CAPTIONS_AT_ONCE

BATCH = 128  # captions that a CPU samples for at once
WEIGHT = 5  # embedded images that a sampled caption takes as long as


@dataclass(frozen=True)
class SamplingJob(ArrayJob, Generic[AnyCase]):
    """Arrays of what is predicted for held-out captions.

    Attributes:
        images: The captions in chunks, and what is sampled.
        image_embeddings: Beside which captions are read.
        text_embeddings: The captions' embeddings and tokens.
        precision: Of sampling on a GPU.
    """

    images: Chunks[AnyCase]
    image_embeddings: ArrayStore
    text_embeddings: ArrayStore
    precision: InferencePrecision = "auto"
    what = "sampling for held-out captions"
    uses_device = True

    @property
    def weight(self) -> int:
        """Sampling takes several forward passes."""
        return WEIGHT

    @property
    def source(self) -> Source:
        """What predictions are made from."""
        stores = self.image_embeddings, self.text_embeddings
        return Source(self.images.captions, *stores, self.precision)

    def captions_at_once(self, device: torch.device) -> int:
        """How many captions a device samples for at once."""
        return BATCH if device.type == "cpu" else CAPTIONS_AT_ONCE


@dataclass(frozen=True)
class SampledEmbeddings(SamplingJob[Predictor]):
    """The array "z" [n, d] of every case: what it predicts, by one number of sampling steps."""

    revision = SAMPLED_EMBEDDINGS_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """What is sampled from."""
        return {"texts": self.text_embeddings.digest, "precision": self.precision}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its embeddings."""
        latest = Latest[Callable[[NDArray[np.int64]], Predict]]()
        here = torch.device(device)
        size, source = self.captions_at_once(here), self.source

        def sampled(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            predict = latest(case.digest, partial(case.opened, source, here))(rows)

            def sample(at: NDArray[np.int64]) -> Columns:
                (predicted,) = predict(at)
                return {"z": predicted.z.float().cpu().numpy()}

            keys = self.images.keys(shard)
            return {"keys": keys, **in_batches(sample, len(rows), size, here, threads)}

        return sampled
