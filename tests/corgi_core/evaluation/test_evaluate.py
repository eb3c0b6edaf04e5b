"""The evaluation whole, on real small models: numbers, and what the grid shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from corgi_core.config import EvaluationSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.pixels import pixels
from corgi_core.data.shards import Sample
from corgi_core.encoders.embed import embed_images, embed_texts
from corgi_core.errors import CorgiError
from corgi_core.evaluation.evaluate import REAL, evaluate, evaluate_priors
from corgi_core.evaluation.report import Evaluation
from corgi_core.io.pictures import CAPTION_WIDTH, labelled_grid
from corgi_core.pipeline import CorgiPipeline
from tests.helpers.picture_metrics import frechet, share_inside
from tests.helpers.tiny_pipeline import SIDE, png, tiny_pipeline

HELD_OUT = 12
SETTINGS = EvaluationSettings(steps=(1,), images=8, grid_rows=3)
SUBSET = "100%"


def caption(image: int, number: int) -> str:
    """The captions of an image say different things."""
    words = ("a red apple", "seven engines under water", "no", "music for a queen", "x y z")
    return f"{words[number]}, {words[(image + number) % 5]} {image}"


@dataclass(frozen=True)
class Material:
    """What an evaluation reads, of held-out images with so many captions each."""

    dataset: Dataset
    images: ArrayStore
    texts: ArrayStore
    pixels: ArrayStore

    @property
    def captions(self) -> dict[str, str]:
        return self.dataset.first_captions("test")


@pytest.fixture(scope="module")
def pipeline() -> CorgiPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def material(
    pipeline: CorgiPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Material]:
    def made(captions: int) -> Material:
        folder = tmp_path_factory.mktemp(f"captions-{captions}")
        samples = [
            Sample(
                f"key{n:02}", png(n), [caption(n, c) for c in range(captions)],
                "test", "made", f"key{n}",
            )
            for n in range(HELD_OUT)
        ]  # fmt: skip
        dataset = write_dataset(folder / "images", samples, shard_size=5)
        return Material(
            dataset,
            embed_images(pipeline.clip, dataset, None, folder / "image"),
            embed_texts(pipeline.clip, pipeline.tokens, dataset, folder / "text"),
            pixels(dataset, folder / "pixels", SIDE),
        )

    return made


@pytest.fixture(scope="module")
def one(material: Callable[[int], Material]) -> Material:
    return material(1)


@pytest.fixture(scope="module")
def five(material: Callable[[int], Material]) -> Material:
    return material(5)


def evaluated(pipeline: CorgiPipeline, material: Material) -> Evaluation:
    return evaluate(
        {("baseline", SUBSET): pipeline.prior}, pipeline.decoder, pipeline.clip,
        material.images, material.texts, material.pixels, material.captions, SETTINGS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(pipeline: CorgiPipeline, five: Material) -> Evaluation:
    return evaluated(pipeline, five)


def chosen(material: Material) -> list[int]:
    """The eight of twelve images that are decoded."""
    return np.linspace(0, HELD_OUT - 1, SETTINGS.images).round().astype(int).tolist()


def test_several_captions_an_image_change_no_number(
    pipeline: CorgiPipeline, one: Material, report: Evaluation
) -> None:
    single = evaluated(pipeline, one)
    assert report.metrics["protocol"] == single.metrics["protocol"]
    assert report.metrics["protocol"]["held_out_captions"] == HELD_OUT
    for ours, expected in (
        (report.prior_table(), single.prior_table()),
        (report.picture_table(), single.picture_table()),
    ):
        numbers = [c for c in ours.columns if c != "seconds"]
        assert ours[numbers].select_dtypes("number").to_numpy() == pytest.approx(
            expected[numbers].select_dtypes("number").to_numpy(), abs=2e-3
        )
    assert [*report.picture_table()["count"]] == [SETTINGS.images] * 2


def features(pipeline: CorgiPipeline, pictures: Tensor) -> np.ndarray:
    vectors = pipeline.clip.encode_images(pictures)
    return (vectors / vectors.norm(dim=1, keepdim=True)).double().numpy()


def test_picture_scores_are_those_of_the_definitions(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    """Of the real embeddings decoded, against loops and scipy's matrix root."""
    rows = chosen(five)
    real = torch.from_numpy(five.pixels.read("pixels")[rows]).float() / 255
    z = torch.from_numpy(five.images.read("image")[rows]).float()
    pictures = pipeline.decoder.decode(z, seed=SETTINGS.seed)
    a, b = features(pipeline, real), features(pipeline, pictures)
    found = report.metrics["pictures"][REAL]["none"]
    assert found["precision"] == share_inside(b, a)
    assert found["recall"] == share_inside(a, b)
    assert found["frechet_distance_clip"] == pytest.approx(frechet(a, b), abs=1e-4)
    halves = [
        np.mean(np.sum(x * y, 1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))
        for x, y in zip(np.split(a, [8], axis=1), np.split(b, [8], axis=1), strict=True)
    ]
    assert found["clip_similarity_image"] == pytest.approx(np.mean(halves), abs=1e-4)


def expected_grid(pipeline: CorgiPipeline, material: Material, number: int) -> np.ndarray:
    """What the evaluation should show if it took each image's caption of that number."""
    rows = chosen(material)
    captions = [caption(n, number) for n in rows]
    tokens, mask = pipeline.tokens.encode(captions)
    text = pipeline.clip.encode_texts(captions)
    z = pipeline.prior.sample(tokens, mask, text, seed=SETTINGS.seed)
    own = torch.from_numpy(material.images.read("image")[rows]).float()
    columns = {
        "real image": torch.from_numpy(material.pixels.read("pixels")[rows]).float() / 255,
        REAL: pipeline.decoder.decode(own, seed=SETTINGS.seed),
        "baseline": pipeline.decoder.decode(z, seed=SETTINGS.seed),
    }
    few = np.linspace(0, len(rows) - 1, SETTINGS.grid_rows).round().astype(int)
    grid = labelled_grid([captions[i] for i in few], {k: v[few] for k, v in columns.items()})
    return np.asarray(grid, dtype=float)


def test_the_grid_is_labelled_with_the_captions_whose_embeddings_were_sampled(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    grid = np.asarray(report.pictures["pictures_100_percent"], dtype=float)
    right, wrong = (expected_grid(pipeline, five, number) for number in (0, 1))
    labels, pictures = grid[:, :CAPTION_WIDTH], grid[:, CAPTION_WIDTH:]
    np.testing.assert_array_equal(labels, right[:, :CAPTION_WIDTH])
    assert np.abs(labels - wrong[:, :CAPTION_WIDTH]).max() > 100  # it would be noticed
    assert np.abs(grid - right).max() <= 8  # stored in float16
    assert np.abs(pictures - wrong[:, CAPTION_WIDTH:]).max() > 100


def test_prior_scores_are_those_of_the_definitions(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    captions = [five.captions[key] for key in five.images.keys]
    tokens, mask = pipeline.tokens.encode(captions)
    text = pipeline.clip.encode_texts(captions)
    z = pipeline.prior.sample(tokens, mask, text, num_steps=1, seed=SETTINGS.seed).double().numpy()
    real = five.images.read("image").astype(np.float64)

    def parts(x: np.ndarray) -> list[np.ndarray]:
        return [p / np.linalg.norm(p, axis=1, keepdims=True) for p in np.split(x, [8], axis=1)]

    similarity = sum(x @ y.T for x, y in zip(parts(z), parts(real), strict=True)) / 2
    found = report.metrics["priors"]["baseline"][SUBSET]["1"]
    assert found["cosine"] == pytest.approx(np.diag(similarity).mean(), abs=2e-3)
    ranks = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
    assert found["recall_at_5"] == pytest.approx((ranks < 5).mean(), abs=1 / HELD_OUT)


def test_priors_alone_are_scored_as_beside_a_decoder(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    alone = evaluate_priors(
        {("baseline", SUBSET): pipeline.prior}, five.images, five.texts, five.captions, SETTINGS
    )
    numbers = alone.prior_table().drop(columns="seconds")
    assert numbers.equals(report.prior_table().drop(columns="seconds"))
    assert "pictures" not in alone.metrics


def test_one_captioned_image_is_too_few(pipeline: CorgiPipeline, five: Material) -> None:
    few = dict(list(five.captions.items())[:1])
    with pytest.raises(CorgiError, match="1 held-out images with captions are too few"):
        evaluate_priors(
            {("baseline", SUBSET): pipeline.prior}, five.images, five.texts, few, SETTINGS
        )


def test_priors_of_other_steps_are_not_compared(pipeline: CorgiPipeline, five: Material) -> None:
    prior = pipeline.prior
    other = type(prior)(
        prior.network, prior.bank, replace(prior.settings, num_steps=prior.settings.num_steps + 1),
        prior.encoders, {},
    )  # fmt: skip
    priors = {("baseline", SUBSET): prior, ("other", SUBSET): other}
    with pytest.raises(CorgiError, match="sampling steps"):
        evaluate_priors(priors, five.images, five.texts, five.captions, SETTINGS)
