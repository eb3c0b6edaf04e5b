"""Train a prior on your own image embeddings: captions in, embeddings out.

    python examples/train_prior_on_embeddings.py                   # on made data, in seconds
    python examples/train_prior_on_embeddings.py photos.parquet    # on yours

The table has a column `key`, a column `caption`, and a list of floats for each CLIP encoder.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from corgi_core.config import preset_named
from corgi_core.data.ingest import ingest
from corgi_core.data.keys import SplitKeys
from corgi_core.data.quality import gate
from corgi_core.encoders.embed import embed_precomputed, embed_texts
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.encoders.train_text_tower import TextTowerTask
from corgi_core.gaussians.fit import fit_bank
from corgi_core.prior.model import PriorModel
from corgi_core.prior.task import PriorTask
from corgi_core.training.loop import train

preset = preset_named("embeddings")
STEPS = 100  # a few thousand for real data


def train_prior(table: Path, folder: Path) -> tuple[PriorModel, dict[str, float]]:
    """The prior of a table's embeddings and captions, and its metrics on held-out images."""
    raw = ingest("embeddings", str(table), folder / "raw", preset.data, preset.seed)
    dataset = gate(raw, folder / "images", preset.data)  # no duplicates, no NaN
    images = embed_precomputed(dataset, folder / "image_embeddings")

    # CLIP's text encoder is not in the table, so one is fitted to its image embeddings.
    steps = replace(preset.encoders.training, steps=STEPS, batch_size=64, warmup_steps=10)
    text_tower = TextTowerTask(preset.encoders, dataset, images)
    clip = text_tower.ensemble(train(text_tower, steps, folder / "text_tower").model, card={})
    tokens = TokenEncoder.load(preset.encoders.text, preset.encoders.text_tokens)
    texts = embed_texts(clip, tokens, dataset, folder / "text_embeddings")

    # The shift: diffusion starts from a Gaussian of the training embeddings, not from N(0, I).
    train_keys = np.array(dataset.keys("train"))
    z = images.read("image")[images.rows_of(train_keys)].astype(np.float32)
    bank, _ = fit_bank(z, k=1, encoder_dims=images.spec["encoder_dims"])

    training = replace(preset.prior.training, steps=STEPS, batch_size=64, warmup_steps=10)
    settings = replace(preset.prior, width=64, layers=1, heads=4, training=training)
    task = PriorTask(
        settings, images, texts, SplitKeys(dataset, "train"),
        validation_keys=SplitKeys(dataset, "validation"), bank=bank,
    )  # fmt: skip
    result = train(task, training, folder / "prior")
    prior = PriorModel(result.model, bank, settings, texts.spec, card={})
    prior.save(folder / "prior_model")
    return prior, result.metrics


def made_table(path: Path, images: int = 300, width: int = 24) -> Path:
    """Embeddings of images that were never made: a caption's words decide where they are."""
    random = np.random.default_rng(0)
    colours, things = ("red", "green", "blue", "golden"), ("apple", "car", "house", "bird", "chair")
    word = {name: random.standard_normal(width) for name in (*colours, *things)}
    rows = []
    for number in range(images):
        colour, thing = random.choice(colours), random.choice(things)
        vector = word[colour] + word[thing] + 0.3 * random.standard_normal(width)
        caption = f"a {colour} {thing}"
        rows.append({"key": f"{number:04}", "caption": caption, "clip": vector.astype(np.float32)})
    pd.DataFrame(rows).to_parquet(path)
    return path


def main(*paths: str) -> dict[str, float]:
    """Train on the table at the path given, or on a made one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = Path(paths[0]) if paths else made_table(folder / "made.parquet")
        _, metrics = train_prior(table, Path("prior_run") if paths else folder)
    print(f"held-out cosine of the prior's embeddings: {metrics['held_out_cosine']:.3f}")
    return metrics


if __name__ == "__main__":
    main(*sys.argv[1:])
