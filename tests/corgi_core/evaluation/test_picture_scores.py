"""What pictures are compared with: real images prepared alike, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.pixels import pixels
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.material import Material
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.evaluation.picture_features import PICTURES, REAL, Decoded, RealImages
from corgi_core.evaluation.picture_scores import PictureScorer, picture_scorer
from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.vendi import vendi
from tests.helpers.evaluations import held_out_material, saved_models, without_intervals
from tests.helpers.picture_metrics import frechet, share_inside
from tests.helpers.tiny_pipeline import SIDE, tiny_pipeline

IMAGES = 8
Scored = Callable[..., PictureScorer]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """The scorer of pictures of eight real embeddings, with a part of the material replaced."""
    pipeline, folder = tiny_pipeline(), tmp_path_factory.mktemp("pictures")
    models = saved_models(pipeline, folder / "models")
    material = held_out_material(pipeline, models, folder, captions=1)
    case = Decoded(models.decoder, REAL, seed=0)

    def made(
        inception: str | None = None,
        dinov2: str | None = None,
        near: np.ndarray | None = None,
        **parts: Any,
    ) -> PictureScorer:
        found: Material = replace(material, **parts)
        captions = HeldOut.of(found.images, IMAGES)
        return picture_scorer(found, captions, np.array([0, 3]), (case,), inception, dinov2, near)

    made.material, made.case = material, case  # type: ignore[attr-defined]
    return made


class Otherwise(ArrayStore):
    """The same pixels, said to be prepared otherwise."""

    def __init__(self, store: ArrayStore, **about: Any) -> None:
        super().__init__(store.folder)
        self.about = about

    @property
    def spec(self) -> dict[str, Any]:
        return super().spec | self.about


@pytest.mark.parametrize(
    ("about", "message"),
    [({"framing": "crop"}, "framed by letterbox, .* by crop"), ({"size": 8}, "stored with 8")],
)
def test_pictures_prepared_otherwise_are_refused(
    scored: Any, about: dict[str, Any], message: str
) -> None:
    with pytest.raises(CorgiError, match=message):
        scored(pixels=Otherwise(scored.material.pixels, **about))


def test_so_few_pictures_have_no_fid(scored: Scored) -> None:
    with pytest.raises(CorgiError, match="8 pictures are too few for FID") as refused:
        scored(inception="weights.pt")
    assert "evaluation.images" in refused.value.remedy


def test_real_images_are_compared_at_the_size_of_the_pictures(scored: Any, tmp_path: Path) -> None:
    """Stored at twice the size, they are scaled to it, and score as those that were stored so."""
    stored = pixels(scored.material.images, tmp_path / "pixels", 2 * SIDE)
    scorer = scored(pixels=stored, folder=tmp_path / "chunks")
    assert scorer.real == {SIDE: RealImages(SIDE)}
    for images, side in ((RealImages(), 2 * SIDE), (RealImages(SIDE), SIDE)):
        first = scorer.chunks.shards_of(images)[0]
        assert scorer.features.mapped(first, PICTURES).shape == (2, 3, side, side)
    found, plain = (each.scores(scored.case) for each in (scorer, scored()))
    assert found["clip_similarity_image"] == pytest.approx(plain["clip_similarity_image"], abs=0.02)


def test_real_images_beside_themselves_score_as_no_model_can(scored: Any) -> None:
    scores = scored().scores(RealImages())
    assert scores["frechet_clip"] == pytest.approx(0, abs=1e-12)
    assert (scores["precision"], scores["recall"]) == (1, 1)
    assert scores["memorisation"] == 0.5
    assert 1 <= scores["vendi"] <= IMAGES
    alone = scored(other_training=scored.material.training).scores(RealImages())
    of_training = {"memorisation", "copies", "nearest_distance"}
    assert without_intervals(alone).keys() == without_intervals(scores).keys() - of_training
    biases = {"frechet_clip_bias", "vendi_bias"}
    judged = {*without_intervals(alone)} - {*biases, "count", "seconds"}
    assert {f"{n}{end}" for n in judged for end in ("_ci_low", "_ci_high")} <= alone.keys()
    assert {f"{n}{end}" for n in of_training for end in ("_ci_low", "_ci_high")} <= scores.keys()
    assert all(alone[f"{n}_ci_low"] <= alone[n] + 1e-8 for n in judged)
    assert all(alone[n] <= alone[f"{n}_ci_high"] + 1e-8 for n in judged)


def test_pictures_near_training_and_far_from_it_have_scores_of_their_own(scored: Any) -> None:
    """Means are of pictures beside their own images, in the balls of all."""
    scorer, near = scored(), np.arange(IMAGES) % 3 == 1
    assert not {"near", "far"} & scorer.scores(scored.case).keys()
    found = scored(near=near).scores(scored.case)
    z, z_real = (scorer.embeddings(case) for case in (scored.case, RealImages()))
    cosines = mean_encoder_cosine(z, z_real, scorer.encoder_dims)
    pictures, real = (torch.nn.functional.normalize(each, dim=1).numpy() for each in (z, z_real))
    for stratum, rows in (("near", near), ("far", ~near)):
        part = found[stratum]
        assert part["clip_similarity_image"] == pytest.approx(float(cosines[rows].mean()))
        assert part["precision"] == share_inside(pictures[rows], real)
        assert part["count"] == rows.sum()
        assert {"memorisation_ci_low", "clip_score", "nearest_distance"} <= part.keys()
        assert not {"frechet_clip", "cmmd", "vendi"} & part.keys()  # 3 and 5 are too few
    none = scored(near=np.zeros(IMAGES, bool)).scores(scored.case)
    assert none["near"] == {"count": 0}
    assert none["far"] == {n: each for n, each in none.items() if n in none["far"]}
    assert none.keys() - none["far"].keys() == {"near", "far", "seconds"}


def test_a_stratum_of_eight_pictures_has_the_scores_of_sets_too(
    scored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bounds that let it be three here: the distances are those of its pictures alone."""
    monkeypatch.setattr("corgi_core.evaluation.picture_strata.FEWEST_IN_A_SET", 3)
    near = np.arange(IMAGES) % 3 == 1  # 1, 4 and 7
    scorer = scored(near=near)
    found, without = (each.scores(scored.case) for each in (scorer, scored()))
    z, z_real = (scorer.embeddings(case) for case in (scored.case, RealImages()))
    pictures, real = (torch.nn.functional.normalize(each, dim=1).numpy() for each in (z, z_real))
    for stratum, rows in (("near", near), ("far", ~near)):
        part = found[stratum]
        expected = frechet(pictures[rows], real[rows])
        assert part["frechet_clip"] == pytest.approx(expected, abs=1e-5)
        assert part["cmmd"] == pytest.approx(cmmd(real[rows], pictures[rows]).value, abs=1e-3)
        assert part["vendi"] == pytest.approx(vendi(pictures[rows]), rel=1e-5)
    assert {n: each for n, each in found.items() if n in without} == {
        **without, "seconds": found["seconds"]
    }  # fmt: skip


def test_real_against_real_has_strata(scored: Any) -> None:
    near = np.arange(IMAGES) % 3 > 0  # 1, 2, 4, 5 and 7
    scorer = scored(near=near)
    found = scorer.real_against_real(SIDE)
    z = scorer.embeddings(RealImages())
    for stratum, rows in (("near", np.flatnonzero(near)), ("far", np.flatnonzero(~near))):
        order = rows[np.random.default_rng(0).permutation(len(rows))]
        half = len(rows) // 2
        ours, theirs = z[order[:half]], z[order[half:][:half]]
        expected = mean_encoder_cosine(ours, theirs, scorer.encoder_dims).mean()
        part = found[stratum]
        assert part["clip_similarity_image"] == pytest.approx(float(expected))
        assert part["count"] == half
        assert {"memorisation", "nearest_distance", "clip_score"} <= part.keys()
        assert "frechet_clip" not in part
    shares = [found[stratum].get("precision") for stratum in ("near", "far")]
    halves = np.random.default_rng(0).permutation(IMAGES)[: IMAGES // 2]
    weights = [near[halves].mean(), 1 - near[halves].mean()]
    mean = sum(w * s for w, s in zip(weights, shares, strict=True) if s is not None)
    assert mean == pytest.approx(found["precision"])


def test_the_training_images_are_read_once_for_many_pictures(
    scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for every chunk of features, and for no real images that nothing is compared with."""
    monkeypatch.setattr(f"{picture_scorer.__module__}.CHUNK", 3)
    stored, searched = pixels(scored.material.images, tmp_path / "pixels", 2 * SIDE), list[int]()
    nearest_numbers = TrainingImages.nearest_numbers

    def counted(self: TrainingImages, z: Tensor, count: int) -> Any:
        searched.append(len(z))
        return nearest_numbers(self, z, count)

    monkeypatch.setattr(TrainingImages, "nearest_numbers", counted)
    scorer = scored(pixels=stored, folder=tmp_path / "chunks")
    assert searched == [IMAGES, IMAGES]  # the decoder's pictures, and the real images at their size
    training = TrainingImages(scored.material.images, scored.material.image_embeddings)
    cosines = training.nearest(scorer.embeddings(scored.case), 1).cosines
    found = scorer.scores(scored.case)["nearest_distance"]
    assert found == pytest.approx(1 - float(cosines.mean()), abs=1e-6)


class Pixels:
    """Some pixels of pictures as their features."""

    def __init__(self, folder: str, device: torch.device) -> None:
        assert folder == "a folder"

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        return images.flatten(1)[:, ::97].numpy()


def test_another_networks_features_have_their_own_names_and_judge_quality_and_coverage(
    scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "corgi_core.evaluation.picture_features"
    monkeypatch.setattr(f"{module}.Dinov2Features", Pixels)
    monkeypatch.setattr(f"{module}.dinov2_digest", lambda folder: "digest")
    scorer, plain = scored(dinov2="a folder", folder=tmp_path), scored()
    found, without = (each.scores(scored.case) for each in (scorer, plain))
    assert without_intervals(found).keys() - without.keys() == {
        "frechet_dinov2", "frechet_dinov2_bias", "kid_dinov2",
    }  # fmt: skip
    assert found["frechet_clip"] == without["frechet_clip"]
    real, pictures = (
        np.concatenate([scorer.features.mapped(s, "dinov2") for s in scorer.chunks.shards_of(case)])
        for case in (RealImages(), scored.case)
    )
    assert found["precision"] == share_inside(pictures, real)
    assert found["recall"] == share_inside(real, pictures)
    assert "dinov2" not in plain.features.spec  # so chunks from before it still hold
