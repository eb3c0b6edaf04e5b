"""The two priors that captions are bought for, trained on the captions of some images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.caption_choice_steps.data import Data, Keys
from corgi_core.config import PriorSettings
from corgi_core.data.keys import ListedKeys
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.caption_candidates import directions_of, nearest_of
from corgi_core.prior.linear import LinearPrior
from corgi_core.prior.model import PriorModel
from corgi_core.prior.reach import reach_of
from corgi_core.prior.ridge import caption_sums, fitted
from corgi_core.prior.task import Captions, PriorTask
from corgi_core.training.loop import train
from corgi_core.training.rows import ChosenRows


class Trained(Protocol):
    """A prior that was trained on some captions."""

    def predicted(self, captions: Captions) -> Tensor:
        """Image embeddings [n, d] of captions."""

    def reach(self, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """How near images [n, d] are to what it generates for its training captions [n]."""


@dataclass(frozen=True)
class Linear:
    """The ridge regression."""

    prior: LinearPrior
    training: Captions

    @classmethod
    def of(cls, data: Data, keys: Keys) -> Self:
        """Fitted to the captions of these images; the penalty by the validation captions."""
        training, validation = ListedKeys(keys), ListedKeys(data.validation)
        sums = caption_sums(training, validation, data.images, data.texts)
        prior = fitted(sums.train, sums.validation, data.images.spec["encoder_dims"])
        return cls(prior, captions_of(data, keys))

    def predicted(self, captions: Captions) -> Tensor:
        """Of each caption the one embedding."""
        return self.prior.predict_captions(captions.text, captions.tokens)

    def reach(self, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """To the nearest of these."""
        generated = self.predicted(self.training).numpy()
        return nearest_of(directions, directions_of(generated, self.prior.encoder_dims))


@dataclass(frozen=True)
class Diffusion:
    """A shifted prior."""

    prior: PriorModel
    data: Data
    keys: Keys
    seed: int

    @classmethod
    def of(
        cls, data: Data, keys: Keys, bank: GaussianBank, settings: PriorSettings, seed: int,
        folder: Path,
    ) -> Self:  # fmt: skip
        """Trained on the captions of these images, in that folder; the same budget for all."""
        held_out = ListedKeys(data.validation)
        task = PriorTask(settings, data.images, data.texts, ListedKeys(keys), held_out, bank)
        result = train(task, replace(settings.training, seed=seed), folder)
        model = PriorModel(result.model, bank, settings, data.texts.spec, card={})
        return cls(model, data, keys, seed)

    def predicted(self, captions: Captions) -> Tensor:
        """One sample of each caption."""
        tokens, attn_mask, text, _ = captions.batch(torch.arange(len(captions)))
        return self.prior.sample(tokens, attn_mask, text, seed=self.seed)

    def reach(self, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """To the nearest of several samples of each."""
        keys = ListedKeys(self.keys)
        return reach_of(self.prior, keys, self.data.texts, directions, self.seed)


def captions_of(data: Data, keys: Keys) -> Captions:
    """The first captions of images, in the stores' order."""
    captions = ChosenRows(data.texts, ListedKeys(keys), first_only=True)
    rows = torch.arange(len(captions))
    text, image = captions.gather(rows, (data.texts, "text"), (data.images, "image"))
    tokens = captions.gather_ragged(rows, data.texts, "tokens")
    return Captions(tokens, text.float(), image.float())
