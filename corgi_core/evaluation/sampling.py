"""Embeddings that priors sample for held-out captions, stored chunk by chunk."""

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
from corgi_core.evaluation.sharing import Columns, in_batches
from corgi_core.evaluation.stored_models import Latest, StoredPrior
from corgi_core.io.files import digest_of
from corgi_core.prior.model import CAPTIONS_AT_ONCE, PriorModel
from corgi_core.prior.task import Captions

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
class SamplingJob(ArrayJob, Generic[AnyCase]):
    """Arrays of what priors sample for held-out captions.

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

    def captions(self, rows: NDArray[np.int64], device: torch.device) -> Captions:
        """The captions of the given rows [b]."""
        return self.images.captions.read(rows, self.image_embeddings, self.text_embeddings, device)

    def captions_at_once(self, device: torch.device) -> int:
        """How many captions a device samples for at once."""
        return BATCH if device.type == "cpu" else CAPTIONS_AT_ONCE


@dataclass(frozen=True)
class SampledEmbeddings(SamplingJob[Sampled]):
    """The array "z" [n, d] of every case: the sample of row i starts from the seed's noise i."""

    revision = SAMPLED_EMBEDDINGS_REVISION

    @property
    def about(self) -> dict[str, Any]:
        """What is sampled from."""
        return {"texts": self.text_embeddings.digest, "precision": self.precision}

    def opened(self, device: str, threads: int) -> Callable[[str], Arrays]:
        """The function from a shard's name to its embeddings."""
        latest = Latest[PriorModel]()
        here = torch.device(device)
        size = self.captions_at_once(here)

        def sampled(shard: str) -> Arrays:
            case, rows = self.images.part(shard)
            prior = latest(case.prior.digest, partial(case.prior.open, here, self.precision))
            captions = self.captions(rows, here)

            def sample(at: NDArray[np.int64]) -> Columns:
                tokens, attn_mask, text, _ = captions.batch(torch.from_numpy(at))
                ids = rows[at].tolist()
                z = prior.sample(tokens, attn_mask, text, seed=case.seed, sample_ids=ids)
                return {"z": z.float().cpu().numpy()}

            keys = self.images.keys(shard)
            return {"keys": keys, **in_batches(sample, len(rows), size, here, threads)}

        return sampled
