"""The linear prior with a contrastive term, as ECLIPSE has it (Patel et al., 2024), without layers.

The ridge regression minimises the squared error alone, and so predicts the mean of all images that
a caption fits. The term wants the caption's own image to be nearer than others: it buys retrieval
with cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import KeySet, SplitKeys
from corgi_core.data.splits import TRAIN
from corgi_core.prior.contrast import TEMPERATURE, info_nce
from corgi_core.prior.linear import (
    ROWS_AT_ONCE,
    LinearPrior,
    caption_features,
    stored_tokens,
)
from corgi_core.training.rows import ChosenRows

WEIGHT = 0.2  # of the contrastive term
STEPS, BATCH = 200, 256
LEARNING_RATE = 2e-3  # falls to 0 linearly
MOST = 32_768  # training captions that it learns from, evenly spaced


def contrastive_prior(
    start: LinearPrior, dataset: Dataset, images: ArrayStore, texts: ArrayStore
) -> LinearPrior:
    """A linear prior trained for seconds, from the ridge regression on.

    Args:
        start: The ridge regression of these data.
        dataset: Has the training images.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.

    Returns:
        The linear prior: the same for the same arguments.
    """
    pairs = spaced_pairs(SplitKeys(dataset, TRAIN), images, texts, start.reads_tokens)
    return trained(start, *pairs)


def spaced_pairs(
    keys: KeySet, images: ArrayStore, texts: ArrayStore, reads_tokens: bool
) -> tuple[Tensor, Tensor]:
    """Features [n, p] and image embeddings [n, d] of at most 32,768 captions, evenly spaced.

    Args:
        keys: Their images are among these.
        images: The image embeddings.
        texts: The captions' embeddings, and tokens where they are stored.
        reads_tokens: Whether the features contain the mean of the tokens.
    """
    rows = ChosenRows(texts, keys)
    spaced, name = rows.spaced(MOST), stored_tokens(texts)
    features, embeddings = list[Tensor](), list[Tensor]()
    for some in torch.split(spaced, ROWS_AT_ONCE):
        text, image = rows.gather(some, (texts, "text"), (images, "image"))
        tokens = rows.gather_ragged(some, texts, name) if name and reads_tokens else None
        features.append(torch.from_numpy(caption_features(text.numpy(), tokens)))
        embeddings.append(image.float())
    return torch.cat(features), torch.cat(embeddings)


def trained(
    start: LinearPrior,
    features: Tensor,
    images: Tensor,
    contrast: float = WEIGHT,
    seed: int = 0,
) -> LinearPrior:
    """`start` after some steps of Adam on both losses; features [n, p] and images [n, d].

    The features are scaled to a mean variance of 1, those of the text embedding and of the tokens
    each, so that one learning rate suits both.
    """
    random = torch.Generator().manual_seed(seed)
    text_width = sum(start.encoder_dims)
    centre = features.mean(dim=0)
    parts = torch.split(features - centre, [text_width, features.shape[1] - text_width], dim=1)
    scale = torch.cat(
        [torch.full((x.shape[1],), float(x.square().mean().sqrt().clamp(min=1e-6))) for x in parts]
    )
    scaled = (features - centre) / scale
    weight = (start.weight * scale[:, None]).requires_grad_()
    bias = (start.bias + centre @ start.weight).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        some = torch.randperm(len(scaled), generator=random)[:BATCH]
        loss = loss_of(scaled[some] @ weight + bias, images[some], start.encoder_dims, contrast)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    learned = (weight / scale[:, None]).detach()
    card = {
        **start.card, "fitted_by": "squared error and a contrastive term", "weight": contrast,
        "temperature": TEMPERATURE, "steps": STEPS, "captions": len(images),
    }  # fmt: skip
    return LinearPrior(learned, bias.detach() - centre @ learned, start.encoder_dims, card)


def loss_of(
    predicted: Tensor, images: Tensor, encoder_dims: tuple[int, ...], contrast: float = WEIGHT
) -> Tensor:
    """Mean squared error + `contrast` × InfoNCE; predicted and images [n, d], row by row."""
    return F.mse_loss(predicted, images) + contrast * info_nce(predicted, images, encoder_dims)
