"""Captions with their images' embeddings, the same for every system: made here, or a Corgi's own.

Nothing is sampled from a global stream: step and seed decide, so all systems are trained on the
same batches in the same order, and are asked about the same held-out grid.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.prior_systems.system import Captions, Case
from corgi_core.data.arrays import ArrayStore
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError

CONCEPTS, IN_A_CAPTION = 32, 3
HIDDEN = 1024
GAIN = 2.0  # of the tanh's input
NOISE = 0.5  # of the image beyond its caption, beside a signal of 1
HELD_OUT_SHARE = 10  # of stored captions one in so many is held out
HELD_OUT_STEP = -1


def captions_of(case: Case) -> MadeCaptions | StoredCaptions:
    """The case's source of captions."""
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
        tokens, mask = padded(self._tokens.take(rows.numpy()))
        longer = self._case.text_tokens - mask.shape[1]
        tokens = F.pad(tokens, (0, self._case.text_width - tokens.shape[2], 0, longer))
        mask = F.pad(mask, (0, longer))
        return _on_device(self._case, tokens, mask, self._text[rows], self._image[rows])


def stored_dim(folder: Path) -> int:
    """d of the image embeddings under `folder`."""
    return int(ArrayStore.load(folder / "image_embeddings").spec["width"])


def _directions(n: int, d: int, random: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=random))


def _on_device(case: Case, tokens: Tensor, mask: Tensor, text: Tensor, image: Tensor) -> Captions:
    """Padding zeroed, text and image scaled to the norm √d, all on the case's device."""
    tokens = tokens * mask.unsqueeze(-1)
    text, image = (F.normalize(x) * case.dim**0.5 for x in (text, image))
    return Captions(*(x.to(case.device) for x in (tokens, mask, text, image)))
