"""Decoders compared on tiny real parts: which gets what, and scores as computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from corgi_core.config import (
    ComparisonSettings,
    DecoderSettings,
    EvaluationSettings,
    preset_named,
)
from corgi_core.data.pixels import pixels
from corgi_core.decoders import registry
from corgi_core.decoders.decoder import Decoder, SampleOptions, TextCond
from corgi_core.decoders.gan.decoder import LafiteDecoder
from corgi_core.decoders.gan.generator import GanShape
from corgi_core.decoders.gan.generator import Generator as GanGenerator
from corgi_core.encoders.embed import embed_images, embed_texts
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.report import (
    CONTRASTIVE_PRIOR,
    LINEAR_PRIOR,
    NEAREST_TO_IMAGE,
    RANDOM_TRAINING,
    REAL_AGAINST_REAL,
)
from corgi_core.experiments.decoder_comparison.measure import Comparison, Result, measure
from corgi_core.experiments.decoder_comparison.report import METRICS, ROWS, report_of
from corgi_core.experiments.report import StudyReport
from tests.helpers.evaluations import in_this_process, stored_decoder, stored_prior
from tests.helpers.protocols import a_protocol
from tests.helpers.tiny_pipeline import BLOCKS, SIDE, tiny_pipeline, write_images

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

IMAGES = 40  # every fifth is held out, every third has no caption
SETTINGS = ComparisonSettings(seeds=(0, 1), images=100, grid_rows=3)
STRATA = EvaluationSettings(steps=(1,), near_cosine=0.97)


@pytest.fixture(scope="module")
def parts():
    return tiny_pipeline()


@dataclass(frozen=True)
class Inputs:
    """What comparisons read."""

    material: Material
    training: TrainingImages


def inputs_in(parts, folder: Path, captions: int) -> Inputs:
    images = write_images(folder / "images", IMAGES, captions=captions, validated=True)
    squares = pixels(images, folder / "pixels", SIDE)
    embeddings = embed_images(parts.clip, images, squares, folder / "image_embeddings")
    texts = embed_texts(parts.clip, parts.tokens, images, folder / "text_embeddings")
    parts.clip.save(folder / "clip")
    material = Material(
        images, embeddings, texts, folder / "chunks", in_this_process, squares, folder / "clip"
    )
    return Inputs(material, TrainingImages(images, embeddings))


def measured(comparison: Comparison, inputs: Inputs) -> Result:
    return measure(comparison, inputs.material, SETTINGS, STRATA)


@pytest.fixture(scope="module")
def inputs(parts, tmp_path_factory) -> Inputs:
    return inputs_in(parts, tmp_path_factory.mktemp("comparison"), captions=1)


@pytest.fixture(scope="module")
def comparison(parts, tmp_path_factory) -> Comparison:
    torch.manual_seed(1)
    shape = GanShape(sum(BLOCKS), SIDE, latent_width=8, channel_base=64, max_channels=8)
    settings = replace(preset_named("emoji-small").decoder_of("lafite"), image_size=SIDE)
    lafite = LafiteDecoder(GanGenerator(shape).eval(), settings, parts.decoder.encoders, {})
    folder = tmp_path_factory.mktemp("models")
    decoders = {
        kind: stored_decoder(decoder, folder / kind)
        for kind, decoder in (("pca", parts.decoder), ("lafite", lafite))
    }
    prior = stored_prior(parts.prior, folder / "prior")
    return Comparison("supervision", decoders, {("baseline", "100%"): prior})


@pytest.fixture(scope="module")
def rows(comparison, inputs) -> pd.DataFrame:
    return pd.DataFrame(measured(comparison, inputs).rows)


def held_out_keys(inputs) -> list[str]:
    keys = inputs.material.text_embeddings.keys
    return keys[np.isin(keys, inputs.training.images.keys("test"))].tolist()


def test_every_decoder_gets_the_embeddings_that_it_is_made_for(rows):
    cases = set(rows[["decoder", "source", "captions", "seed"]].itertuples(index=False, name=None))
    assert cases == {
        (*case, seed)
        for seed in SETTINGS.seeds
        for case in (
            *(("real images", source, "") for source in
              ("", REAL_AGAINST_REAL, NEAREST_TO_IMAGE, RANDOM_TRAINING)),
            ("pca", "real", "none"), ("lafite", "real", "none"),
            *((*each, captions) for control in ("", ", shuffled captions") for *each, captions in (
                ("pca", f"text{control}", "none"), ("lafite", f"text{control}", "none"),
                ("pca", f"{LINEAR_PRIOR}{control}", "none"),
                ("pca", f"{CONTRASTIVE_PRIOR}{control}", "none"),
                ("pca", f"baseline{control}", "100%"),
            )),
        )
    }  # fmt: skip
    linear = rows.query("source == @LINEAR_PRIOR").iloc[0]
    control = rows[rows["source"] == f"{LINEAR_PRIOR}, shuffled captions"].iloc[0]
    assert control["clip_similarity_text"] != linear["clip_similarity_text"]
    assert np.isnan(control["frechet_clip"])  # of the same pictures
    assert len(rows) == len(cases)


@dataclass(frozen=True, kw_only=True)
class KnownSettings(DecoderSettings):
    kind: ClassVar[str] = "known"


@dataclass(frozen=True)
class KnownShape:
    embedding_width: int
    images: int


class Known(nn.Module):
    """The images of known embeddings: of the nearest one, or of the one after it."""

    def __init__(self, shape: KnownShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("z", torch.zeros(shape.images, shape.embedding_width))
        self.register_buffer("images", torch.zeros(shape.images, 3, SIDE, SIDE))

    @classmethod
    def of(cls, material: Material, shift: int) -> Known:
        store, images = material.image_embeddings, material.pixels
        known = cls(KnownShape(store.spec["width"], len(store)))
        known.z = torch.from_numpy(store.read("image").astype(np.float32))
        rows = np.roll(images.rows_of(store.keys), -shift)
        known.images = torch.from_numpy(images.read("pixels")[rows]).float() / 255
        return known

    def forward(self, z: Tensor) -> Tensor:
        return self.images[torch.cdist(z, self.z).argmin(dim=1)]


class KnownDecoder(Decoder):
    @classmethod
    def build(cls, shape: Mapping[str, Any]) -> nn.Module:
        return Known(KnownShape(**shape))

    def sample(self, z: Tensor, text: TextCond | None, options: SampleOptions) -> Tensor:
        return self.network(z)


def test_images_embeddings_and_captions_are_of_the_same_keys(inputs, parts, tmp_path):
    """Decoded to its own image, an embedding scores as the real one; to the next image, not."""
    path = f"{__name__}:KnownDecoder"
    registry.register("known", decoder=path, task=path, settings=KnownSettings)
    settings = KnownSettings(
        image_size=SIDE, cond_dropout=0.1, perturbed=0.0, min_cosine=0.5, guidance=1.0,
        num_steps=1, training=parts.decoder.settings.training,
    )  # fmt: skip
    decoders = {}
    for name, shift in (("own", 0), ("next", 1)):
        known = Known.of(inputs.material, shift)
        decoder = KnownDecoder(known, settings, parts.decoder.encoders, {})
        decoders[name] = stored_decoder(decoder, tmp_path / name)
    found = measured(Comparison("known", decoders, {}), inputs)
    rows = pd.DataFrame(found.rows).set_index("decoder")
    rows = rows[rows["source"].isin(["", "real"])]
    scores = rows[list(METRICS)].groupby("decoder").mean()
    own, real, other = scores.loc["own"], scores.loc["real images"], scores.loc["next"]
    assert own.to_numpy() == pytest.approx(real.to_numpy(), abs=1e-5)
    assert own["clip_similarity_image"] == pytest.approx(1, abs=1e-5)
    assert other["clip_similarity_image"] < 0.999
    assert other["clip_similarity_text"] != pytest.approx(own["clip_similarity_text"], abs=1e-4)
    assert other["frechet_clip"] > own["frechet_clip"] + 1e-3


def test_several_captions_an_image_change_no_score_and_no_label(
    comparison, inputs, parts, rows, tmp_path, monkeypatch
):
    """Every image counts once: precision stays what it is with one caption."""
    several = inputs_in(parts, tmp_path, captions=3)
    counts = [len(each.material.text_embeddings) for each in (several, inputs)]
    assert counts[0] == 3 * counts[1]
    labels = []
    monkeypatch.setattr(
        "corgi_core.experiments.decoder_comparison.measure.labelled_grid",
        lambda captions, columns: labels.append((captions, columns)),
    )
    found = pd.DataFrame(measured(comparison, several).rows)
    numbers = [*METRICS, "images"]
    found, expected = (  # the linear priors are fitted to all captions
        each[~each["source"].str.startswith(LINEAR_PRIOR)] for each in (found, rows)
    )
    pd.testing.assert_frame_equal(found[numbers], expected[numbers], atol=1e-5)
    (captions, columns), keys = labels[0], held_out_keys(inputs)
    assert captions == [f"picture number {int(key[3:])}" for key in keys][:: len(keys) // 2][:3]
    squares = inputs.material.pixels
    real = torch.from_numpy(squares.read("pixels")[squares.rows_of(keys)]).float() / 255
    assert torch.equal(columns["real image"], real[:: len(keys) // 2][:3])


def test_real_images_stand_at_the_size_of_the_largest_decoders_pictures(
    comparison, inputs, tmp_path
):
    """Stored larger than any decoder's pictures, which the largest decoder may not be made for."""
    stored = pixels(inputs.material.images, tmp_path / "pixels", 2 * SIDE)
    material = replace(inputs.material, pixels=stored, folder=tmp_path / "chunks")
    alone = Comparison("alone", {"pca": comparison.decoders["pca"]}, {})
    one = replace(SETTINGS, seeds=(0,), images=5)
    found = measure(alone, material, one, STRATA).rows[0]
    assert (found["decoder"], found["source"]) == ("real images", "")
    assert (found["precision"], found["memorisation"]) == (1, 0.5)


def test_scores_are_those_computed_by_hand(rows, comparison, parts, inputs):
    keys = held_out_keys(inputs)
    captions = inputs.training.names(keys)
    text = parts.clip.encode_texts(captions)
    tokens, mask = parts.tokens.encode(captions)
    z = parts.prior.sample(tokens, mask, text, seed=1)
    embedded = parts.clip.encode_images(parts.decoder.decode(z, seed=1))
    found = rows.query("decoder == 'pca' and source == 'baseline' and seed == 1").iloc[0]
    assert found["clip_similarity_text"] == pytest.approx(
        float(mean_encoder_cosine(embedded, text, BLOCKS).mean()), abs=2e-3
    )
    train = sorted(inputs.training.images.keys("train"))
    store = inputs.training.embeddings
    known = torch.from_numpy(store.read("image")[store.rows_of(train)].astype(np.float32))
    nearest = torch.stack([mean_encoder_cosine(each, known, BLOCKS).max() for each in embedded])
    assert found["nearest_distance"] == pytest.approx(1 - float(nearest.mean()), abs=2e-3)
    assert found["images"] == len(keys)


def test_a_report_has_a_table_a_figure_and_a_grid_a_comparison(comparison, inputs, tmp_path):
    settings = ComparisonSettings(seeds=(0,), images=5, grid_rows=2)
    free = Comparison("language-free", comparison.decoders, comparison.priors, "made")
    both = [comparison, free]
    report = report_of(both, inputs.material, settings, STRATA)
    report.save(tmp_path / "report")
    again = StudyReport.load(tmp_path / "report")
    twice = report_of(both, inputs.material, settings, STRATA)
    assert again.digest == report.digest == twice.digest
    assert set(again.tables) == {
        f"{name}{stratum}"
        for name in ("supervision", "language_free")
        for stratum in ("", "_near", "_far")
    }
    assert set(again.pictures) == {
        "supervision", "supervision_grid", "language_free", "language_free_grid",
    }  # fmt: skip
    *lines, empty, protocol = again.tables["supervision"].splitlines()
    assert len(lines) == 2 + 16  # a head, a rule, the cases
    assert (empty, protocol) == ("", again.protocols["supervision"].line)
    assert again.protocols == report.protocols
    others = replace(
        report, protocols={"supervision": replace(report.protocols["supervision"], seed=7)}
    )
    assert others.digest != report.digest
    assert lines[0].count("|") == len(METRICS) + 6
    near = again.protocols["supervision"].near_images
    of_real = again.tables["supervision_near"].splitlines()[2]
    assert of_real.startswith(f"| real images |  |  | too few ({near}) | – |")  # five: no bias
    assert of_real.endswith(f"| {near} |")
    assert {row["images"] for row in again.rows[ROWS]} == {5}


@pytest.mark.parametrize(
    ("decoder", "source", "captions"),
    [
        ("real images", NEAREST_TO_IMAGE, ""), ("lafite", "text", "none"),
        ("pca", LINEAR_PRIOR, "none"), ("pca", f"{CONTRASTIVE_PRIOR}, shuffled captions", "none"),
        ("pca", "baseline", "100%"), ("pca", "baseline, shuffled captions", "100%"),
    ],
)  # fmt: skip
def test_a_comparison_that_lacks_a_row_is_refused_by_its_name(
    comparison, rows, monkeypatch, decoder, source, captions
):
    lacking = rows.query("not (decoder == @decoder and source == @source)").to_dict("records")
    result = Result(lacking, Image.new("RGB", (1, 1)), a_protocol())
    monkeypatch.setattr(f"{report_of.__module__}.measure", lambda *given: result)
    name = ", ".join(filter(None, (decoder, source, captions)))
    with pytest.raises(CorgiError, match=rf"lacks a row .*: {name}\."):
        report_of([comparison], None, SETTINGS, STRATA)


def test_too_few_captions_are_refused(comparison, inputs):
    alone = Comparison("few", comparison.decoders, {}, source="nobody")
    with pytest.raises(CorgiError, match="0 test images with captions are too few"):
        measured(alone, inputs)
