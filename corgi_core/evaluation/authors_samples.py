"""A prior of the paper's authors in the tables beside ours, by states of the captions.

It reads what no store of ours has: text embeddings with their lengths, and T5's tokens of padded
captions. So whoever compares it computes them, and puts them beside its weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from corgi_core.devices import wait_for
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.others_samples import SAME_ENCODERS, OthersSamples, agreement
from corgi_core.evaluation.predictors import ONCE, Predict, Prediction, Source
from corgi_core.io.files import digest_of, digest_of_file
from corgi_core.prior.authors_prior import GAUSSIANS, NUM_STEPS, WEIGHTS, AuthorsPrior

STATES, CAPTIONS = "captions.safetensors", "captions"  # the file, and the captions in its metadata
TOKENS, TEXT = "tokens", "text"  # its tensors
REMEDY = "make the file of the evaluated captions, as docs/evaluation.md says"


@dataclass(frozen=True)
class CaptionStates:
    """The states of some captions, found by the captions' texts.

    Attributes:
        path: A safetensors file with "tokens" [n, T, w] and "text" [n, d], whose metadata have the
            n captions as a list in JSON, "captions".
    """

    path: Path

    @property
    def width(self) -> int:
        """d; CorgiError where the file is no such one, or its parts have different lengths."""
        with suppress(OSError, SafetensorError), safe_open(str(self.path), "pt") as file:
            text = file.get_slice(TEXT).get_shape()
            if file.get_slice(TOKENS).get_shape()[0] == text[0] == len(self._captions):
                return int(text[1])
        raise CorgiError(f"{self.path} has no tokens and text of as many captions", REMEDY)

    def of(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens [b, T, w] and text embeddings [b, d], of rows that are read one by one.

        Raises:
            CorgiError: a caption is not in the file.
        """
        at = {caption: row for row, caption in enumerate(self._captions)}
        missing = [caption for caption in captions if caption not in at]
        if missing:
            raise CorgiError(
                f"{self.path} has no state of {len(missing)} evaluated captions, such as "
                f"{missing[0]!r}",
                REMEDY,
            )
        rows = [at[caption] for caption in captions]
        with safe_open(str(self.path), "pt") as file:
            tokens, text = (
                torch.cat([part[row : row + 1] for row in rows])
                for part in (file.get_slice(TOKENS), file.get_slice(TEXT))
            )
        return tokens.float(), text.float()

    @cached_property
    def _captions(self) -> list[str]:
        """The caption of each row; none where the file lists none."""
        with safe_open(str(self.path), "pt") as file:
            try:
                listed = json.loads((file.metadata() or {}).get(CAPTIONS, "[]"))
            except ValueError:
                listed = []
        return listed if isinstance(listed, list) else []


@dataclass(frozen=True)
class AuthorsSamples(OthersSamples):
    """Samples of a prior of the authors, at the number of steps of their example.

    `folder` has the captions' states too; `files` is its `authors_digest`.
    """

    kind: ClassVar[str] = "authors' prior"

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Load the prior onto the device. Samples are scaled as ours, each encoder's to norm √d_b.

        Raises CorgiError for states of other encoders, or captions without states.
        """
        prior = AuthorsPrior.load(Path(self.folder)).to(device)
        states, dims = CaptionStates(Path(self.folder) / STATES), source.images.spec["encoder_dims"]
        _check_encoders(states, source)

        def chunk(rows: NDArray[np.int64]) -> Predict:
            def predict(at: NDArray[np.int64]) -> Iterator[Prediction]:
                numbers = rows[at].tolist()
                tokens, text = states.of([source.captions.captions[row] for row in numbers])
                started = time.perf_counter()
                z = prior.sample(tokens, text, seed=self.seed, sample_ids=numbers)
                wait_for(device)
                yield Prediction(ONCE, scale_per_encoder(z, dims), time.perf_counter() - started)

            return predict

        return chunk


def _check_encoders(states: CaptionStates, source: Source) -> None:
    """Raise CorgiError where states are of other encoders than the stored embeddings."""
    cosine = agreement(lambda captions: states.of(captions)[1], source)
    if not cosine >= SAME_ENCODERS:
        raise CorgiError(
            f"the text embeddings in {states.path} are of other encoders than the evaluated "
            f"ones: of the same captions they have a cosine of {cosine:.2f}",
            "embed the data by OpenAI's ViT-B/16, ViT-B/32 and RN101, in this order, and the "
            "captions of that file likewise",
        )


def is_authors_prior(folder: Path) -> bool:
    """Whether a folder holds a converted checkpoint of the authors."""
    return (folder / WEIGHTS).is_file()


def authors_digest(folder: Path) -> str:
    """Names the files of a prior of the authors, its captions' states, and its steps."""
    names = [name for name in (WEIGHTS, GAUSSIANS, STATES) if (folder / name).is_file()]
    return f"{digest_of([(name, digest_of_file(folder / name)) for name in names])}-{NUM_STEPS}"
