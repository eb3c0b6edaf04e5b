"""Captions with their images' embeddings, the same for every system: made here, or a Corgi's own.

Nothing is sampled from a global stream: step and seed decide, so all systems are trained on the
same batches in the same order, and are asked about the same held-out grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from upath import UPath

from benchmarks.prior_systems.system import Captions, Case
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.splits import TRAIN
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.split_overlap import SplitOverlap
from corgi_core.training.rows import ChosenRows

CONCEPTS, IN_A_CAPTION = 32, 3
HIDDEN = 1024
GAIN = 2.0  # of the tanh's input
NOISE = 0.5  # of the image beyond its caption, beside a signal of 1
HELD_OUT_SHARE = 10  # of stored captions one in so many is held out
HELD_OUT_STEP = -1


def captions_of(case: Case) -> MadeCaptions | StoredCaptions | SplitCaptions:
    """The case's source of captions."""
    if case.images is not None:
        return SplitCaptions(case)
    return MadeCaptions(case) if case.stores is None else StoredCaptions(case)


class MadeCaptions:
    """An endless stream in which the image follows from the caption, but not linearly.

    A caption is a set C of 3 of 32 concepts, and its 77 tokens name them over and over: token p is
    the vector E of concept p mod 3. With random E, V, W that stay, y = Σ_C V, the image is
    z_0 ∝ W₂ tanh(W₁ y) + ε, where ε is half as long as the signal: a network that knew all would
    still err by it where z_t is mere noise. The CLIP text embedding is a linear map of y and as
    much noise, as a real one tells of its caption, but not all.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        random = torch.Generator().manual_seed(0)

        def fixed(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        self._tokens = F.normalize(fixed(CONCEPTS, case.text_width)) * case.text_width**0.5
        self._values = fixed(CONCEPTS, HIDDEN) / IN_A_CAPTION**0.5  # V
        self._hidden = fixed(HIDDEN, HIDDEN) * GAIN / HIDDEN**0.5  # W₁
        self._image, self._text = fixed(HIDDEN, case.dim), fixed(HIDDEN, case.dim)  # W₂

    def training(self, step: int) -> Captions:
        """The batch of a step, on the case's device."""
        return self._sample(step, self._case.batch)

    def held_out(self) -> Captions:
        """`case.held_out` captions that no step trains on."""
        return self._sample(HELD_OUT_STEP, self._case.held_out)

    def _sample(self, step: int, n: int) -> Captions:
        case, random = self._case, torch.Generator().manual_seed(step + 1)
        concepts = torch.rand(n, CONCEPTS, generator=random).topk(IN_A_CAPTION).indices
        tokens = self._tokens[concepts[:, torch.arange(case.text_tokens) % IN_A_CAPTION]]
        y = self._values[concepts].sum(dim=1)
        signal = F.normalize(torch.tanh(y @ self._hidden) @ self._image)
        image = signal + NOISE * _directions(n, case.dim, random)
        text = F.normalize(y @ self._text) + _directions(n, case.dim, random)
        mask = torch.ones(n, case.text_tokens, dtype=torch.bool)
        return _on_device(case, tokens, mask, text, image)


class StoredCaptions:
    """The captions of a workspace's `image_embeddings` and `text_embeddings`.

    Tokens are padded to `case.text_tokens`, and with zeros to `case.text_width`, for all alike.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        folder = Path(case.stores or "")
        images, texts = (
            ArrayStore.load(folder / f"{kind}_embeddings") for kind in ("image", "text")
        )
        self._tokens = texts.read_ragged("tokens")
        longest, width = int(self._tokens.lengths.max()), self._tokens.values.shape[1]
        if longest > case.text_tokens or width > case.text_width:
            raise CorgiError(
                f"captions of {folder} are up to {longest} tokens of width {width}, "
                f"more than {case.text_tokens} of {case.text_width}",
                "use embeddings of a smaller text encoder",
            )
        self._text = torch.from_numpy(texts.read("text")).float()
        image_rows = images.rows_of(texts.keys)
        self._image = torch.from_numpy(images.read("image")[image_rows]).float()
        # By image, not by caption: an image's captions are all held out or none is.
        held_out = torch.from_numpy(image_rows) % HELD_OUT_SHARE == 0
        self._training_rows, self._held_out_rows = (
            (~held_out).nonzero()[:, 0],
            held_out.nonzero()[:, 0],
        )

    def training(self, step: int) -> Captions:
        random = torch.Generator().manual_seed(step + 1)
        chosen = torch.randint(len(self._training_rows), (self._case.batch,), generator=random)
        return self._rows(self._training_rows[chosen])

    def held_out(self) -> Captions:
        chosen = torch.arange(self._case.held_out) % len(self._held_out_rows)
        return self._rows(self._held_out_rows[chosen])

    def _rows(self, rows: Tensor) -> Captions:
        tokens, mask = _padded(self._case, self._tokens.take(rows.numpy()))
        return _on_device(self._case, tokens, mask, self._text[rows], self._image[rows])


class SplitCaptions:
    """A dataset's captions by its own splits: all those of training images, one of a held-out one.

    `case.stores` has `split_overlap` too, which says what is left out of the others. Embeddings are
    as stored, tokens padded as those of `StoredCaptions`.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        stores, self._dataset = UPath(case.stores or ""), Dataset.load(UPath(case.images or ""))
        self._images, self._texts = (
            ArrayStore.load(stores / f"{kind}_embeddings") for kind in ("image", "text")
        )
        self._left_out = SplitOverlap.load(stores / "split_overlap").left_out
        self._rows = ChosenRows(self._texts, SplitKeys(self._dataset, TRAIN))

    def training(self, step: int) -> Captions:
        """The batch of a step."""
        random = torch.Generator().manual_seed(step + 1)
        rows = torch.randint(len(self._rows), (self._case.batch,), generator=random)
        text, image = self._rows.gather(rows, (self._texts, "text"), (self._images, "image"))
        tokens = self._rows.gather_ragged(rows, self._texts, "tokens")
        return self._captions(tokens, text.float(), image.float())

    def held_out(self, split: str) -> Captions:
        """One caption of each image of a split, at most `case.held_out`."""
        count, left_out = self._case.held_out, self._left_out
        chosen = HeldOut.of(self._dataset, count, left_out=left_out, split=split)
        read = chosen.read(np.arange(len(chosen)), self._images, self._texts)
        return self._captions(read.tokens, read.text, read.image)

    def _captions(self, ragged: RaggedArray, text: Tensor, image: Tensor) -> Captions:
        tokens, mask = _padded(self._case, ragged)
        captions = tokens * mask.unsqueeze(-1), mask, text, image
        return Captions(*(x.to(self._case.device) for x in captions))


def stored_dim(folder: Path) -> int:
    """d of the image embeddings under `folder`."""
    return int(ArrayStore.load(folder / "image_embeddings").spec["width"])


def _directions(n: int, d: int, random: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=random))


def _padded(case: Case, ragged: RaggedArray) -> tuple[Tensor, Tensor]:
    """Tokens of the case's length and width, and their mask."""
    tokens, mask = padded(ragged)
    longer = case.text_tokens - mask.shape[1]
    tokens = F.pad(tokens, (0, case.text_width - tokens.shape[2], 0, longer))
    return tokens, F.pad(mask, (0, longer))


def _on_device(case: Case, tokens: Tensor, mask: Tensor, text: Tensor, image: Tensor) -> Captions:
    """Padding zeroed, text and image scaled to the norm √d, all on the case's device."""
    tokens = tokens * mask.unsqueeze(-1)
    text, image = (F.normalize(x) * case.dim**0.5 for x in (text, image))
    return Captions(*(x.to(case.device) for x in (tokens, mask, text, image)))
