"""Samples with the mean and covariance of the images: an affine map of what a prior samples.

Few steps and guidance leave samples with too little variance where the caption says little, and
too much where it says much. Between Gaussians the map that moves samples least, in squared
distance, is known (Olkin and Pukelsheim, 1982). Part of that way costs hardly any retrieval, and
most of what guidance has added to the Fréchet distance is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from corgi_core.devices import one_thread_each
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.prior.affine_map import AffineMap
from corgi_core.prior.model import CAPTIONS_AT_ONCE, PriorModel
from corgi_core.prior.network import PriorNetwork
from corgi_core.prior.task import PriorTask

MOST = 4096  # training captions that are sampled, evenly spaced
SEED = 1  # of their samples


def matched_prior(task: PriorTask, network: PriorNetwork, card: Mapping[str, Any]) -> PriorModel:
    """A trained prior, with the map of its settings' samples where `prior.matched` asks for one.

    Args:
        task: The training, whose captions are sampled and whose images are matched.
        network: What was trained.
        card: How it was trained.

    Returns:
        The prior. Of n captions in d dimensions its map goes n/(n + d) of `prior.matched` of the
        way, as few captions' covariance is mostly chance.
    """
    model = PriorModel(network, task.bank, task.settings, task.texts.spec, card)
    if not task.settings.matched:
        return model
    captions = task.spaced_captions(MOST)
    chunks = []
    for rows in torch.split(torch.arange(len(captions)), CAPTIONS_AT_ONCE):
        tokens, attn_mask, text, _ = captions.batch(rows)
        z = model.sample(tokens, attn_mask, text, seed=SEED, sample_ids=rows.tolist())
        chunks.append(z.float().cpu())
    images = scale_per_encoder(captions.image, model.bank.encoder_dims)
    share = task.settings.matched * len(images) / (len(images) + images.shape[1])
    with one_thread_each():  # the same bits on any number of cores
        model.matching = AffineMap.between(torch.cat(chunks), images, share).to(model.device)
    return model
