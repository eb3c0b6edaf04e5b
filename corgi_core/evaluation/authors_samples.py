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

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from corgi_core.devices import wait_for
from corgi_core.encoders.similarity import mean_encoder_cosine, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.predictors import ONCE, Predict, Prediction, Source
from corgi_core.io.files import digest_of, digest_of_file
from corgi_core.prior.authors_prior import GAUSSIANS, NUM_STEPS, WEIGHTS, AuthorsPrior

STATES, CAPTIONS = "captions.safetensors", "captions"  # the file, and the captions in its metadata
TOKENS, TEXT = "tokens", "text"  # its tensors
CHECKED = 16  # captions that both text encoders embed
SAME_ENCODERS = 0.99  # mean cosine from which on they are the same
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
class AuthorsSamples:
    """Samples of a prior of the authors, at the number of steps of their example.

    Attributes:
        folder: With the prior's files and the captions' states.
        files: `authors_digest` of the folder.
        seed: The sampling's; caption i starts from its own noise.
    """

    folder: str
    files: str
    seed: int

    @property
    def digest(self) -> str:
        """Names the prior, the states, and how it is sampled from."""
        return digest_of("authors' prior", self.files, self.seed)

    @property
    def controlled(self) -> str:
        """Its samples."""
        return ONCE

    def opened(
        self, source: Source, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Predict]:
        """Load the prior onto the device. Samples are scaled as ours, each encoder's to norm √d_b.

        Raises CorgiError for states of other encoders, or captions without states.
        """
        prior = AuthorsPrior.load(Path(self.folder)).to(device)
        states, dims = CaptionStates(Path(self.folder) / STATES), source.images.spec["encoder_dims"]
        self._check_encoders(states, source)

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

    def _check_encoders(self, states: CaptionStates, source: Source) -> None:
        rows = np.arange(min(CHECKED, len(source.captions)))
        stored = source.captions.gather(rows, source.texts, "text").astype(np.float32)
        _, own = states.of(source.captions.captions[: len(rows)])
        dims = source.images.spec["encoder_dims"]
        cosine = mean_encoder_cosine(own, torch.from_numpy(stored), dims).mean().item()
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
