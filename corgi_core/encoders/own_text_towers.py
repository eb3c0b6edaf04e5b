"""CLIP's own text towers for precomputed image embeddings whose encoders are named.

Embeddings that name the open_clip encoders they came from need no fitted text towers: the encoders
have their own, which are loaded by name or from a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch

from corgi_core.config import FITTED, TRAINED
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, caption_of
from corgi_core.data.splits import TRAIN
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.open_clip_model import CONFIG, OpenClipModel
from corgi_core.encoders.similarity import unit_per_encoder
from corgi_core.errors import CorgiError

CHECKED, FEWEST = 256, 32  # captions that are compared with their images; fewer prove nothing
AGREEMENT = 0.6  # by chance 0.5; CLIP has 0.9 and more on captions that describe their images
FIT = "fit text towers to the embeddings: --set clip=[fitted]"


def own_names(clip: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """The encoders whose own text towers are used; None where text towers are to be fitted.

    Args:
        clip: The setting `encoders.clip`: encoders, or ("trained",) for those that the embeddings
            name, or ("fitted",).
        names: What the embeddings call the encoders that they came from.
    """
    if tuple(clip) == FITTED:
        return None
    if tuple(clip) != TRAINED:
        return tuple(clip)
    found = [_loadable(name) for name in names]
    own = tuple(name for name in found if name is not None)
    return own if len(own) == len(names) else None


def own_text_towers(names: Sequence[str], embeddings: ArrayStore, images: Dataset) -> ClipEnsemble:
    """The named encoders, checked against the embeddings; their space is the embeddings'.

    The card has "agreement": how often a training caption is nearer to its own embedding than to
    another one, of up to 256 of each.

    Args:
        names: An encoder for each of the embeddings', in their order, as `ClipEnsemble.load` reads.
        embeddings: The image embeddings, the array "image" [n, d].
        images: The dataset with the captions.

    Raises:
        CorgiError: Weights that cannot be reached; encoders of another number or width than the
            embeddings have; captions that are no nearer to their own embeddings than to others.
    """
    spec = embeddings.spec
    try:
        loaded = ClipEnsemble.load(tuple(names))
    except CorgiError as failure:
        raise CorgiError(
            f"the embeddings came from {', '.join(spec['names'])}, and the text tower is not at "
            f"hand: {failure.problem}",
            f"give the encoder's folder with --set clip=[FOLDER], or {FIT}",
        ) from failure
    if list(loaded.encoder_dims) != list(spec["encoder_dims"]):
        raise CorgiError(
            f"{', '.join(names)} has embeddings of width {_sum(loaded.encoder_dims)}, those of the "
            f"data are {_sum(spec['encoder_dims'])} wide",
            f"name the encoders that the embeddings came from, or {FIT}",
        )
    encoders = [each for each in loaded.encoders if isinstance(each, OpenClipModel)]
    for encoder, name in zip(encoders, spec["names"], strict=True):
        encoder.name = name
    ensemble = ClipEnsemble(encoders, space=spec["encoder"])
    ensemble.card["agreement"] = agreement = _agreement(ensemble, embeddings, images)
    if agreement is not None and agreement < AGREEMENT:
        raise CorgiError(
            f"the captions are nearer to their own embeddings than to others in "
            f"{agreement:.0%} of the cases, which is chance: {', '.join(names)} did not make them",
            f"name the encoders that the embeddings came from, or {FIT}",
        )
    return ensemble


def _agreement(clip: ClipEnsemble, embeddings: ArrayStore, images: Dataset) -> float | None:
    """The share of other images that are further from a caption than its own; None if too few."""
    by_shard = _some_captions(images)
    captions = [text for found in by_shard.values() for text in found.values()]
    if len(captions) < FEWEST:
        return None
    rows = [
        embeddings.mapped(shard, "image")[embeddings.first_rows(shard, np.array(list(found)))]
        for shard, found in by_shard.items()
    ]
    image = torch.from_numpy(np.concatenate(rows).astype(np.float32))
    text = clip.encode_texts(captions)
    image, text = (unit_per_encoder(each, clip.encoder_dims) for each in (image, text))
    cosines = text @ image.T
    further = (cosines < cosines.diagonal()[:, None]).float().sum(dim=1) / (len(captions) - 1)
    return float(further.mean())


def _some_captions(images: Dataset) -> dict[str, dict[str, str]]:
    """Up to 256 first captions of training images, by shard and key, from as few shards."""
    found: dict[str, dict[str, str]] = {}
    missing = CHECKED
    for shard in images.images_of(TRAIN):
        rows = images.rows(shard, "key", "captions", "split")
        rows = rows[(rows["split"] == TRAIN) & rows["captions"].notna()].head(missing)
        if len(rows):
            captions = [caption_of(texts) or "" for texts in rows["captions"]]
            found[shard] = dict(zip(rows["key"], captions, strict=True))
            missing -= len(rows)
        if not missing:
            break
    return found


def _loadable(name: str) -> str | None:
    """The name as encoders are loaded by it: a hub id, a folder, or "architecture/tag"."""
    if name.startswith("hf-hub:") or (Path(name) / CONFIG).is_file():
        return name
    for sign in "/:":
        architecture, found, tag = name.partition(sign)
        if found and tag in open_clip.list_pretrained_tags_by_model(architecture):
            return f"{architecture}/{tag}"
    return None


def _sum(widths: Sequence[int]) -> str:
    return " + ".join(map(str, widths))
