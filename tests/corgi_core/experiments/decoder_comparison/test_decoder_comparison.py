"""Decoders compared on tiny real parts: who is fed what, and scores as computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from corgi_core.config import ComparisonSettings, preset_named
from corgi_core.data.pixels import pixels
from corgi_core.decoders.gan.decoder import LafiteDecoder
from corgi_core.decoders.gan.generator import GanShape
from corgi_core.decoders.gan.generator import Generator as GanGenerator
from corgi_core.encoders.embed import embed_images, embed_texts
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.experiments.decoder_comparison.compose import ROWS, compared
from corgi_core.experiments.decoder_comparison.measure import Contest, Material, held
from corgi_core.experiments.decoder_comparison.tables import METRICS
from corgi_core.experiments.report import StudyReport
from tests.helpers.tiny_pipeline import BLOCKS, SIDE, tiny_pipeline, write_images

IMAGES = 40  # every fifth is held out, every third has no caption
SETTINGS = ComparisonSettings(seeds=(0, 1), images=100, grid_rows=3)


@pytest.fixture(scope="module")
def parts():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def material(parts, tmp_path_factory) -> Material:
    folder: Path = tmp_path_factory.mktemp("comparison")
    images = write_images(folder / "images", IMAGES)
    squares = pixels(images, folder / "pixels", SIDE)
    embeddings = embed_images(parts.clip, images, squares, folder / "image_embeddings")
    texts = embed_texts(parts.clip, parts.tokens, images, folder / "text_embeddings")
    return Material(parts.clip, TrainingImages(images, embeddings), texts, squares)


@pytest.fixture(scope="module")
def contest(parts, material) -> Contest:
    torch.manual_seed(1)
    shape = GanShape(sum(BLOCKS), SIDE, latent_width=8, channel_base=64, max_channels=8)
    settings = preset_named("emoji-small").decoder_of("lafite")
    lafite = LafiteDecoder(GanGenerator(shape).eval(), settings, parts.decoder.encoders, {})
    return Contest(
        "supervision", {"pca": parts.decoder, "lafite": lafite},
        {("baseline", "100%"): parts.prior}, material.training.images.keys("test"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(contest, material) -> pd.DataFrame:
    return pd.DataFrame(held(contest, material, SETTINGS).rows)


def held_out_keys(material) -> list[str]:
    rows = material.texts.rows_among(set(material.training.images.keys("test")))
    return material.texts.keys[rows].tolist()


def test_every_decoder_gets_what_it_can_draw_from(rows):
    cases = set(rows[["decoder", "source", "captions", "seed"]].itertuples(index=False, name=None))
    assert cases == {
        (*case, seed)
        for seed in SETTINGS.seeds
        for case in (
            ("real pictures", "", ""), ("pca", "real", "none"), ("lafite", "real", "none"),
            ("pca", "baseline", "100%"), ("lafite", "text", "none"),
        )
    }  # fmt: skip
    assert len(rows) == len(cases)


def test_real_pictures_are_their_own_best(rows):
    real = rows[rows["decoder"] == "real pictures"]
    assert real["frechet_distance_clip"].max() < 1e-6
    assert real[["precision", "recall", "clip_similarity_image"]].to_numpy() == pytest.approx(1)
    assert (rows["frechet_distance_clip"] >= 0).all()


def test_scores_are_those_computed_by_hand(rows, contest, parts, material):
    keys = held_out_keys(material)
    captions = material.training.names(keys)
    text = parts.clip.encode_texts(captions)
    tokens, mask = parts.tokens.encode(captions)
    z = parts.prior.sample(tokens, mask, text, seed=1)
    seen = parts.clip.encode_images(parts.decoder.decode(z, seed=1))
    found = rows.query("decoder == 'pca' and source == 'baseline' and seed == 1").iloc[0]
    assert found["clip_similarity_text"] == pytest.approx(
        float(mean_encoder_cosine(seen, text, BLOCKS).mean()), abs=2e-3
    )
    train = sorted(material.training.images.keys("train"))
    store = material.training.embeddings
    known = torch.from_numpy(store.read("image")[store.rows_of(train)].astype(np.float32))
    nearest = torch.stack([mean_encoder_cosine(each, known, BLOCKS).max() for each in seen])
    assert found["nearest_distance"] == pytest.approx(1 - float(nearest.mean()), abs=2e-3)
    assert found["images"] == len(keys)


def test_a_report_has_a_table_a_figure_and_a_grid_a_contest(contest, material, tmp_path):
    settings = ComparisonSettings(seeds=(0,), images=5, grid_rows=2)
    free = Contest("language-free", contest.decoders, contest.priors, contest.keys)
    report = compared([contest, free], material, settings)
    report.save(tmp_path / "report")
    again = StudyReport.load(tmp_path / "report")
    assert again.digest == report.digest == compared([contest, free], material, settings).digest
    assert set(again.tables) == {"supervision", "language_free"}
    assert set(again.pictures) == {
        "supervision", "supervision_grid", "language_free", "language_free_grid",
    }  # fmt: skip
    lines = again.tables["supervision"].splitlines()
    assert len(lines) == 2 + 5  # a head, a rule, five cases
    assert lines[0].count("|") == len(METRICS) + 4
    assert {row["images"] for row in again.rows[ROWS]} == {5}


def test_too_few_captions_are_refused(contest, material):
    alone = Contest("few", contest.decoders, {}, contest.keys[:1])
    with pytest.raises(CorgiError, match="too few to compare"):
        held(alone, material, SETTINGS)
