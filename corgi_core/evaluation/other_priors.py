"""Priors that others trained, in the tables beside ours: on the same captions, by the same code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from corgi_core.devices import wait_for
from corgi_core.errors import CorgiError
from corgi_core.evaluation.authors_samples import (
    STATES,
    AuthorsSamples,
    CaptionStates,
    authors_digest,
    is_authors_prior,
)
from corgi_core.evaluation.others_samples import SAME_ENCODERS, OthersSamples, agreement
from corgi_core.evaluation.predictors import ONCE, Predict, Prediction, Predictor, Source
from corgi_core.evaluation.report import BASELINES
from corgi_core.prior.diffusers_prior import (
    DiffusersPrior,
    diffusers_prior_digest,
    embedding_width,
)

OTHER_CLIP = (
    "leave it out of evaluation.other_priors, or set encoders.clip to the CLIP it belongs to"
)


@dataclass(frozen=True)
class DiffusersSamples(OthersSamples):
    """A diffusers prior's samples, at its pipeline's own number of steps and guidance.

    `folder` is the pipeline's, and `files` its `diffusers_prior_digest`.
    """

    kind: ClassVar[str] = "diffusers prior"

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Load the prior onto the device; CorgiError where it belongs to another CLIP."""
        prior = DiffusersPrior.load(Path(self.folder))
        prior.precision = source.precision
        prior.to(device)
        cosine = agreement(prior.encode_texts, source)
        if not cosine >= SAME_ENCODERS:
            raise CorgiError(
                f"the prior in {self.folder} belongs to another CLIP than the one evaluated: their "
                f"embeddings of the same captions have a cosine of {cosine:.2f}",
                OTHER_CLIP,
            )

        def chunk(rows: NDArray[np.int64]) -> Predict:
            def predict(at: NDArray[np.int64]) -> Iterator[Prediction]:
                numbers = rows[at].tolist()
                captions = [source.captions.captions[row] for row in numbers]
                seeds = [(self.seed * 1_000_003 + row) % 2**63 for row in numbers]
                started = time.perf_counter()
                z = prior.sample(captions, seeds)
                wait_for(device)
                yield Prediction(ONCE, z, time.perf_counter() - started)

            return predict

        return chunk


def other_priors(
    folders: Sequence[str], encoder_dims: Sequence[int], seed: int
) -> dict[str, Predictor]:
    """The priors of some folders, by their names.

    Args:
        folders: Each that of a diffusers pipeline, or of a prior of the paper's authors.
        encoder_dims: Widths of the CLIP encoders that are evaluated.
        seed: The sampling's.

    Raises:
        CorgiError: A folder holds no such prior, or one of embeddings of another width or of
            fewer encoders; or two rows would have one name.
    """
    found: dict[str, Predictor] = {}
    for folder in folders:
        name, files = Path(folder).name, other_prior_digest(Path(folder))
        if name in found or name in BASELINES:
            raise CorgiError(f"two rows would be called {name}", f"rename the folder {folder}")
        if is_authors_prior(Path(folder)):
            width = CaptionStates(Path(folder) / STATES).width
            _check_widths(folder, width == sum(encoder_dims), f"{width} wide", encoder_dims)
            found[name] = AuthorsSamples(folder, files, seed)
        else:
            width = embedding_width(Path(folder))
            kind = f"of one CLIP encoder, {width} wide"
            _check_widths(folder, [width] == list(encoder_dims), kind, encoder_dims)
            found[name] = DiffusersSamples(folder, files, seed)
    return found


def other_prior_digest(folder: Path) -> str:
    """Names the files of a prior, and how it is sampled from."""
    return authors_digest(folder) if is_authors_prior(folder) else diffusers_prior_digest(folder)


def _check_widths(folder: str, fits: bool, kind: str, encoder_dims: Sequence[int]) -> None:
    if not fits:
        raise CorgiError(
            f"the prior in {folder} samples embeddings {kind}; those evaluated are of encoders "
            f"{' + '.join(map(str, encoder_dims))} wide",
            OTHER_CLIP,
        )
