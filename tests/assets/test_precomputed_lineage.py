"""From precomputed embeddings to a prior that knows their captions: the gate, towers, the graph."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from upath import UPath

from corgi_core.config import TrainingSettings, preset_named
from corgi_core.data.dataset import Dataset
from corgi_core.data.expectations import check_manifest
from corgi_core.data.ingest import ingest
from corgi_core.data.pixels import pixels
from corgi_core.data.quality import gate
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import embed_precomputed, embed_texts
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.encoders.train_text_tower import TextTowerTask
from corgi_core.errors import CorgiError
from corgi_core.prior.task import check_encoders
from corgi_core.training.loop import train
from orchestration.definitions import build_definitions
from orchestration.settings import Settings
from tests.helpers import forked
from tests.helpers.vectors_on_disk import WIDTHS, rows, write_parquet
from tests.helpers.whole import quarantine_of

PRESET = preset_named("embeddings")
ENCODERS = replace(
    PRESET.encoders, text_tokens=8,
    training=TrainingSettings(
        steps=120, batch_size=64, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9
    ),
)  # fmt: skip
DATA = replace(PRESET.data, shard_size=100)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("ready")
    made = rows()
    made[3]["clip_b"] = np.full(WIDTHS["clip_b"], np.nan, np.float16)
    made[4]["clip_a"] = np.zeros(WIDTHS["clip_a"], np.float16)
    made[5] |= {name: made[6][name] for name in WIDTHS}
    path = write_parquet(folder / "e.parquet", made)
    raw = ingest("embeddings", str(path), UPath(folder / "raw"), DATA, seed=0)
    return gate(raw, UPath(folder / "images"), DATA)


def test_the_gate_names_what_it_leaves_out(images: Dataset) -> None:
    found = quarantine_of(images)
    assert dict(zip(found["reason"], found["detail"], strict=True)) == {
        "not finite": f"{WIDTHS['clip_b']} of {sum(WIDTHS.values())} numbers",
        "zero vector": "the block of clip_a",
        "duplicate": f"has the same numbers as {found['detail'].iloc[-1].rpartition(' ')[2]}",
    }
    assert len(images) == len(rows()) - 3
    assert check_manifest(images.iter_rows).success


def test_pictures_are_asked_for_in_vain(images: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="holds embeddings, not pictures"):
        pixels(images, UPath(tmp_path), 64)


def test_fitted_towers_retrieve_and_survive_saving(images: Dataset, tmp_path: Path) -> None:
    store = embed_precomputed(images, UPath(tmp_path / "image"))
    assert store.spec["encoder_dims"] == list(WIDTHS.values())
    norms = np.linalg.norm(store.read("image")[:, :16].astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 4, rtol=1e-3)
    task = TextTowerTask(ENCODERS, images, store)
    assert ENCODERS.training is not None
    result = train(task, ENCODERS.training, tmp_path / "run")
    # 8 validation combinations of 4 embeddings each: a right text is one of 4 that are all right
    assert result.metrics["recall_at_5"] > 0.7  # by chance 0.16
    ensemble = task.ensemble(result.model, {"training": "abc"})
    ensemble.save(UPath(tmp_path / "clip"))
    again = ClipEnsemble.load(UPath(tmp_path / "clip"))
    assert (again.digest, again.names, again.encoder_dims) == (
        ensemble.digest, list(WIDTHS), tuple(WIDTHS.values()),
    )  # fmt: skip
    texts = ["a red apple", "a pink hat"]
    torch.testing.assert_close(again.encode_texts(texts), ensemble.encode_texts(texts))
    with pytest.raises(CorgiError, match="'clip_a' is not at hand: its embeddings are precomputed"):
        again.encode_images(torch.zeros(1, 3, 8, 8))
    tokens = TokenEncoder.load("minilm", 8)
    captions = embed_texts(again, tokens, images, UPath(tmp_path / "text"))
    check_encoders(store, captions)
    assert len(captions) == 2 * len(images)


def test_the_lineage_without_pictures() -> None:
    settings = Settings.from_environment({"CORGI_PRESET": "embeddings"})
    found = build_definitions(settings).resolve_asset_graph()
    graph = {
        key.to_user_string(): sorted(each.to_user_string() for each in found.get(key).parent_keys)
        for key in found.toposorted_asset_keys
    }
    assert not {"pixels", "decoder"} & graph.keys()
    assert graph["image_embeddings"] == ["images"]
    assert graph["clip_encoder"] == ["image_embeddings", "images"]
    assert graph["text_embeddings"] == ["clip_encoder", "images"]
    assert graph["evaluation"] == [
        "image_embeddings", "images", "prior", "split_overlap", "text_embeddings"
    ]  # fmt: skip
    assert graph["registered_models"] == ["clip_encoder", "evaluation", "prior"]
    assert {"gaussian_bank", "prior", "prior_study", "study_figures"} <= graph.keys()


def test_generating_needs_a_decoder(tmp_path: Path) -> None:
    words = ("generate", "a hat", "--preset", "embeddings")
    environment = os.environ | {"CORGI_HOME": str(tmp_path)}
    done = forked.run(forked.CORGI, words, environment, tmp_path)
    assert done.returncode == 2
    assert "has embeddings only, and no decoder" in done.stderr
