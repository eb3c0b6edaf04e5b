"""Embeddings that priors sample for held-out captions, stored chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.config import InferencePrecision
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore
from corgi_core.data.revisions import SAMPLED_EMBEDDINGS_REVISION
from corgi_core.evaluation.held_out import Chunks
from corgi_core.evaluation.sharing import Columns, in_batches
from corgi_core.evaluation.stored_models import Latest, StoredPrior
from corgi_core.io.files import digest_of
from corgi_core.prior.model import CAPTIONS_AT_ONCE, PriorModel

BATCH = 128  # captions that a CPU samples for at once
WEIGHT = 5  # embedded images that a sampled caption takes as long as


@dataclass(frozen=True)
class Sampled:
    """A prior's samples of one seed, at its own number of steps."""

    prior: StoredPrior
    seed: int

    @property
    def digest(self) -> str:
        """Names the prior, with its settings, and the seed."""
        return digest_of("sampled", self.prior.digest, self.seed)


@dataclass(frozen=True)
class SampledEmbeddings(ArrayJob):
    """The array "z" [n, d] of every case: the sample of row i starts from the seed's noise i.

    Attributes:
        images: The captions in chunks, and the priors.
        image_embeddings: Beside which captions are read.
        text_embeddings: The captions' embeddings and tokens.
        precision: Of sampling on a GPU.
    """

    images: Chunks[Sampled]
    image_embeddings: ArrayStore
    text_embeddings: ArrayStore
    precision: InferencePrecision = "auto"
    what = "sampling for held-out captions"
    revision = SAMPLED_EMBEDDINGS_REVISION
    uses_device = True
    weight = WEIGHT

    @property
    def about(self) -> dict[str, Any]:
        """What is sampled from."""
        return {"texts": self.text_embeddings.digest, "precision": self.precision}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its embeddings."""
        latest = Latest[PriorModel]()
        here = torch.device(device)
        size = BATCH if here.type == "cpu" else CAPTIONS_AT_ONCE

        def sampled(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            prior = latest(case.prior.digest, partial(case.prior.open, here, self.precision))
            captions = self.images.captions.read(
                rows, self.image_embeddings, self.text_embeddings, here
            )

            def sample(at: NDArray[np.int64]) -> Columns:
                tokens, attn_mask, text, _ = captions.batch(torch.from_numpy(at))
                ids = rows[at].tolist()
                z = prior.sample(tokens, attn_mask, text, seed=case.seed, sample_ids=ids)
                return {"z": z.float().cpu().numpy()}

            keys = self.images.keys(shard)
            return {"keys": keys, **in_batches(sample, len(rows), size, here, threads)}

        return sampled
