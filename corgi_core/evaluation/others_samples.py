"""Samples of priors that others trained, which stand in the tables beside ours.

A prior is compared only where it predicts what is evaluated, the embeddings of the same CLIP. Two
encoders may have the same width, so embeddings of some test captions by its own text encoder must
point where the stored ones do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.evaluation.predictors import ONCE, Predict, Source
from corgi_core.io.files import digest_of

CHECKED = 16  # captions that both text encoders embed
SAME_ENCODERS = 0.99  # mean cosine from which on they are the same


@dataclass(frozen=True)
class OthersSamples(ABC):
    """Samples of a prior in a folder, at its own number of steps.

    Attributes:
        folder: Its folder.
        files: A digest of all files there that its samples depend on.
        seed: The sampling's; caption i starts from its own noise.
        kind: Whose format the folder has.
    """

    folder: str
    files: str
    seed: int
    kind: ClassVar[str]

    @property
    def digest(self) -> str:
        """Names the prior and how it is sampled from."""
        return digest_of(self.kind, self.files, self.seed)

    @property
    def controlled(self) -> str:
        """Its samples."""
        return ONCE

    @abstractmethod
    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Load the prior onto the device; CorgiError where it belongs to other encoders."""


def agreement(embed: Callable[[Sequence[str]], Tensor], source: Source) -> float:
    """The mean cosine of embeddings of the first test captions to the stored ones.

    Args:
        embed: The embeddings [n, d] of n captions by the encoders that a prior belongs to.
        source: The test captions, and what is stored of them.
    """
    rows = np.arange(min(CHECKED, len(source.captions)))
    stored = source.captions.gather(rows, source.texts, "text").astype(np.float32)
    own = embed(source.captions.captions[: len(rows)]).cpu()
    dims = source.images.spec["encoder_dims"]
    return float(mean_encoder_cosine(own, torch.from_numpy(stored), dims).mean())
