"""What gives an embedding for a caption: priors, and the baselines that stand beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corgi_core.config import InferencePrecision
from corgi_core.data.arrays import ArrayStore
from corgi_core.devices import wait_for
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.stored_models import StoredPrior
from corgi_core.io.files import digest_of
from corgi_core.metrics.cosine_by_timestep import CosineByTimestep
from corgi_core.prior.linear import LinearPrior, stored_tokens

ONCE = "once"  # the name of what is predicted without sampling steps


class Prediction(NamedTuple):
    """What is predicted for some captions.

    Attributes:
        name: The prediction's.
        z: Embeddings [b, d].
        seconds: That they took.
        by_timestep: Cosines [b, B] of the true embeddings to what was predicted of them on the way,
            by timestep, from noise on; empty where there are no steps or nobody asked.
    """

    name: str
    z: Tensor
    seconds: float = 0.0
    by_timestep: Mapping[int, Tensor] = MappingProxyType({})


Predict = Callable[[NDArray[np.int64]], Iterator[Prediction]]
"""The predictions for some of a chunk's captions, by their numbers in the chunk [b]."""


@dataclass(frozen=True)
class Source:
    """The test captions, and what is stored of them.

    Attributes:
        captions: All of them.
        images: Their images' embeddings.
        texts: Their own embeddings and tokens.
        precision: Of sampling on a GPU.
    """

    captions: HeldOut
    images: ArrayStore
    texts: ArrayStore
    precision: InferencePrecision


class Predictor(Protocol):
    """One case of `PredictionScores`."""

    @property
    def digest(self) -> str:
        """Names all that its predictions depend on, beside the captions."""

    @property
    def controlled(self) -> str | None:
        """The name of the prediction that is also compared with another caption's image."""

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Load what it needs; the function from a chunk's rows [n] to its predictions."""


@dataclass(frozen=True)
class PriorSamples:
    """A prior's samples at several numbers of steps, by which they are named.

    Attributes:
        prior: The prior.
        steps: The numbers of sampling steps.
        seed: The sampling's.
        sampler: Another one than the prior's own.
        guidance: Another scale of guidance than the prior's own.
        along: Whether predictions on the way are compared with the truth, at the most steps.
    """

    prior: StoredPrior
    steps: tuple[int, ...]
    seed: int
    sampler: str | None = None
    guidance: float | None = None
    along: bool = False

    @property
    def digest(self) -> str:
        """Names the prior, with its settings, how it is sampled from, and what is compared."""
        others = [each for each in (self.sampler, self.guidance) if each is not None]
        compared = ["along"] if self.along else []
        return digest_of("predicted", self.prior.digest, self.steps, self.seed, *others, *compared)

    @property
    def controlled(self) -> str:
        """The samples at the prior's own number of steps."""
        return str(self.prior.settings.num_steps)

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Load the prior onto the device."""
        prior, dims = self.prior.open(device, source.precision), source.images.spec["encoder_dims"]

        def chunk(rows: NDArray[np.int64]) -> Predict:
            captions = source.captions.read(rows, source.images, source.texts, device)

            def predict(at: NDArray[np.int64]) -> Iterator[Prediction]:
                tokens, mask, text, true = captions.batch(torch.from_numpy(at))
                ids = rows[at].tolist()
                for steps in self.steps:
                    compared = self.along and steps == max(self.steps)
                    curve = CosineByTimestep(true, dims) if compared else None
                    started = time.perf_counter()
                    z = prior.sample(
                        tokens, mask, text, num_steps=steps, guidance=self.guidance,
                        sampler=self.sampler, seed=self.seed, sample_ids=ids, callback=curve,
                    )  # fmt: skip
                    wait_for(prior.device)
                    seconds = time.perf_counter() - started
                    yield Prediction(str(steps), z, seconds, curve.by_caption if curve else {})

            return predict

        return chunk


def samples_of(prior: StoredPrior, seed: int) -> PriorSamples:
    """A prior's samples at its own number of steps."""
    return PriorSamples(prior, (prior.settings.num_steps,), seed)


@dataclass(frozen=True)
class TextEmbeddings:
    """The caption's own CLIP text embedding."""

    digest = digest_of("text embeddings")
    controlled = None

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Nothing is loaded."""
        return lambda rows: _once(_text(source, rows))


@dataclass(frozen=True)
class LinearPredictions:
    """What a linear prior predicts."""

    prior: LinearPrior

    @property
    def digest(self) -> str:
        """Names the prior."""
        return digest_of("linear", self.prior.digest)

    @property
    def controlled(self) -> None:
        """None."""

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Nothing is loaded."""

        def chunk(rows: NDArray[np.int64]) -> Predict:
            name, tokens = stored_tokens(source.texts), None
            if name is not None and self.prior.reads_tokens:
                tokens = source.captions.gather_ragged(rows, source.texts, name)
            return _once(self.prior.predict_captions(_text(source, rows), tokens))

        return chunk


@dataclass(frozen=True)
class StoredImages:
    """The embedding of one stored image for each caption, such as the nearest training image.

    Attributes:
        images: The images, one a caption.
        embeddings: Theirs.
    """

    images: HeldOut
    embeddings: ArrayStore

    @property
    def digest(self) -> str:
        """Names the images and their embeddings."""
        return digest_of("stored images", self.images.digest, self.embeddings.digest)

    @property
    def controlled(self) -> None:
        """None."""

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Nothing is loaded."""
        return lambda rows: _once(self.images.image_embeddings(rows, self.embeddings))


def _text(source: Source, rows: NDArray[np.int64]) -> Tensor:
    text = source.captions.gather(rows, source.texts, "text")
    return torch.from_numpy(text.astype(np.float32))


def _once(z: Tensor) -> Predict:
    """The predictions z [n, d] of a chunk, which take no time that is worth a measurement."""

    def predict(at: NDArray[np.int64]) -> Iterator[Prediction]:
        yield Prediction(ONCE, z[torch.from_numpy(at)])

    return predict
