"""The evaluation whole, on real small models: numbers, chunks, and what the grid shows."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from corgi_core.config import EvaluationSettings
from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.dataset import write_dataset
from corgi_core.data.image_index import ImageIndex
from corgi_core.data.pixels import pixels
from corgi_core.data.shards import Sample
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.baselines import linear_priors
from corgi_core.evaluation.derangement import derangement
from corgi_core.evaluation.evaluate import evaluate
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.material import Material, TrainingData
from corgi_core.evaluation.plain_scores import BY_TIMESTEP
from corgi_core.evaluation.predictors import PriorSamples
from corgi_core.evaluation.report import (
    BASELINES,
    CONTRASTIVE_PRIOR,
    LINEAR,
    LINEAR_PRIOR,
    NEAREST_TO_IMAGE,
    NEAREST_TO_TEXT,
    PICTURE_BASELINES,
    RANDOM_TRAINING,
    REAL_AGAINST_REAL,
    REAL_EMBEDDING,
    SHUFFLED,
    STRATA,
    TEXT_EMBEDDING,
    UNTRAINED,
    Evaluation,
)
from corgi_core.evaluation.strata import near_training
from corgi_core.evaluation.training_neighbours import TrainingNeighbours, training_neighbours
from corgi_core.io.pictures import CAPTION_WIDTH, labelled_grid
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.linear import LinearPrior
from corgi_core.prior.model import PriorModel
from tests.helpers.evaluations import (
    HELD_OUT,
    TWINS,
    VALIDATION,
    Models,
    caption,
    embedding_scores,
    held_out_material,
    in_this_process,
    numbers,
    picture_scores,
    saved_models,
    stored_decoder,
    stored_prior,
    without_intervals,
)
from tests.helpers.picture_metrics import frechet, share_inside
from tests.helpers.tiny_diffusers_prior import saved_prior
from tests.helpers.tiny_pipeline import BLOCKS, SIDE, tiny_pipeline

SETTINGS = EvaluationSettings(
    steps=(1,), images=8, grid_rows=3, grid_seeds=2, near_cosine=0.99999, near_bits=0
)
SUBSET = "100%"
# Of `small_chunks`: twelve captions for seven baselines and a prior by fives, four validation
# captions for four baselines and a prior; eight pictures of eight cases, 3 + 3 + 2 each, four of
# them of predicted embeddings; another seed's three pictures of a prior and of the real embedding.
# The dataset has four shards.
ALL_CHUNKS = {
    "hashes": 4, "neighbours": 2, "scores": 24, "validation_scores": 5,
    "validation_neighbours": 1, "embeddings": 12, "pictures": 24, "picture_neighbours": 8,
    "seed_embeddings": 1, "seed_pictures": 2,
    "balls": 8 + 2, "biases": 8 + 2,  # of two halves
    "distances": 8 + 1, "kernel_parts": 8 + 1, "inside": 8 + 1,  # of a pair of halves
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> CorgiPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def models(pipeline: CorgiPipeline, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return saved_models(pipeline, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def material(
    pipeline: CorgiPipeline, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Material]:
    """Of held-out images with so many captions each."""

    def made(captions: int) -> Material:
        folder = tmp_path_factory.mktemp(f"captions-{captions}")
        return held_out_material(pipeline, models, folder, captions)

    return made


@pytest.fixture(scope="module")
def one(material: Callable[[int], Material]) -> Material:
    return material(1)


@pytest.fixture(scope="module")
def five(material: Callable[[int], Material]) -> Material:
    return material(5)


def evaluated(models: Models, material: Material) -> Evaluation:
    return evaluate({("baseline", SUBSET): models.prior}, models.decoder, material, SETTINGS)


@pytest.fixture(scope="module")
def report(models: Models, five: Material) -> Evaluation:
    return evaluated(models, five)


@pytest.fixture(scope="module")
def of_one(models: Models, one: Material) -> Evaluation:
    """With one caption an image."""
    return evaluated(models, one)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of five and three captions, in batches of two."""
    cut_small(monkeypatch)


def cut_small(patch: pytest.MonkeyPatch) -> None:
    for module, name, size in (
        ("evaluate", "SCORED_AT_ONCE", 5), ("picture_scores", "CHUNK", 3),
        ("sampling", "BATCH", 2), ("picture_features", "BATCH", 2),
    ):  # fmt: skip
        patch.setattr(f"corgi_core.evaluation.{module}.{name}", size)


class Counting:
    """Runs jobs in this process, and counts what each has computed."""

    def __init__(self) -> None:
        self.computed: dict[str, int] = {}

    def __call__(self, job: ArrayJob, folder: Path) -> ArrayStore:
        store = in_this_process(job, folder)
        self.computed[folder.name] = store.recomputed
        return store


@dataclass(frozen=True)
class InChunks:
    """An evaluation of `small_chunks`.

    Attributes:
        report: Its result.
        folder: What it has stored.
        computed: How many shards of each store.
    """

    report: Evaluation
    folder: Path
    computed: dict[str, int]

    def copied(self, folder: Path) -> Path:
        """What it has stored once more, as if it had been evaluated there."""
        return Path(shutil.copytree(self.folder, folder))


@pytest.fixture(scope="module")
def in_chunks(models: Models, five: Material, tmp_path_factory: pytest.TempPathFactory) -> InChunks:
    folder, run = tmp_path_factory.mktemp("chunks") / "all", Counting()
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        report = evaluated(models, replace(five, folder=folder, run=run))
    return InChunks(report, folder, run.computed)


def chosen() -> list[int]:
    """The eight of twelve images that are decoded."""
    return np.linspace(0, HELD_OUT - 1, SETTINGS.images).round().astype(int).tolist()


def test_priors_are_chosen_on_validation_images_at_their_own_steps_alone(
    models: Models, one: Material, of_one: Evaluation, pipeline: CorgiPipeline
) -> None:
    validation = of_one.metrics["validation"]
    assert validation["captions"] == VALIDATION
    keys = one.images.keys("validation")
    captions = HeldOut.of(one.images, 100, split="validation")
    assert captions.keys == keys
    read = captions.read(np.arange(VALIDATION), one.image_embeddings, one.text_embeddings)
    tokens, mask, text, _ = read.batch(torch.arange(VALIDATION))
    prior = pipeline.prior
    z = prior.sample(
        tokens, mask, text, num_steps=prior.settings.num_steps, seed=SETTINGS.seed,
        sample_ids=list(range(VALIDATION)),
    )  # fmt: skip
    names = one.text_embeddings.spec["names"]
    expected = embedding_scores(z, read.image, BLOCKS, names)
    found = numbers(validation["priors"]["baseline"][SUBSET])
    for score in ("cosine", "recall_at_1", "recall_at_5", "count"):
        assert found[score] == pytest.approx(expected[score], abs=1e-5)
    rows = of_one.validation.query("model == @models.prior.digest")
    assert tuple(rows["key"]) == captions.keys
    assert rows["cosine"].mean() == pytest.approx(expected["cosine"], abs=1e-5)
    unchosen = evaluated(models, replace(one, other_training=one.training))
    assert "validation" not in unchosen.metrics
    assert unchosen.validation_table().empty
    assert unchosen.validation is None


def test_a_champion_is_scored_on_the_same_captions_sampled_from_as_its_challengers_are(
    models: Models, one: Material, pipeline: CorgiPipeline, tmp_path: Path
) -> None:
    """The champion's own settings say another sampler, guidance and number of steps."""
    prior = pipeline.prior
    settings = replace(prior.settings, num_steps=1, sampler="ddpm", guidance=3.0)
    same = PriorModel(prior.network, prior.bank, settings, prior.encoders, {})
    champion = stored_prior(same, tmp_path / "champion")
    priors = {("baseline", SUBSET): models.prior}
    report = evaluate(priors, None, one, SETTINGS, [champion, models.prior])
    by_model = dict(list(report.validation.groupby("model")))
    ours, theirs = (by_model[m.digest].reset_index(drop=True) for m in (models.prior, champion))
    pd.testing.assert_frame_equal(ours.drop(columns="model"), theirs.drop(columns="model"))
    assert set(report.metrics["validation"]["champions"]) == {champion.digest}
    assert by_model.keys() == {models.prior.digest, champion.digest, *UNTRAINED, *LINEAR}
    report.save(tmp_path / "saved")
    read = Evaluation.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(read.validation, report.validation)


def test_scores_are_of_all_images_and_of_those_with_and_without_a_near_training_image(
    of_one: Evaluation,
) -> None:
    """Test images 0 and 1 are training images too, under other names."""
    assert of_one.metrics["protocol"]["near_images"] == TWINS
    scores = of_one.metrics["priors"]["baseline"][SUBSET]["1"]
    assert (scores["near"]["count"], scores["far"]["count"]) == (TWINS, HELD_OUT - TWINS)
    for name in ("cosine", "recall_at_1", "recall_at_5"):
        parts = scores["near"][name] * TWINS + scores["far"][name] * (HELD_OUT - TWINS)
        assert parts / HELD_OUT == pytest.approx(scores[name])
    row = of_one.prior_table().query("steps == 1").to_dict("records")[0]
    assert row["cosine_near"] == scores["near"]["cosine"]
    assert of_one.metrics["baselines"][TEXT_EMBEDDING]["near"]["count"] == TWINS
    near = sum(number < TWINS for number in chosen())
    of_pictures = of_one.metrics["pictures"]["baseline"][SUBSET]
    for scores in (of_pictures, of_pictures[SHUFFLED]):
        assert (scores["near"]["count"], scores["far"]["count"]) == (near, 8 - near)
        similarity = "clip_similarity_text"
        parts = scores["near"][similarity] * near + scores["far"][similarity] * (8 - near)
        assert parts / 8 == pytest.approx(scores[similarity])
    every = of_one.picture_table()
    assert every["clip_score_far"].notna().all()  # real against real and the controls too
    assert every.query("embeddings == 'baseline'")["count_near"].tolist() == [near]


def test_the_cosine_by_timestep_is_of_the_most_steps_and_ends_at_the_samples(
    models: Models, one: Material, report: Evaluation
) -> None:
    """The last prediction is the sample itself."""
    by_steps = report.metrics["priors"]["baseline"][SUBSET]
    most = max(by_steps, key=int)
    found = by_steps[most][BY_TIMESTEP]
    assert [steps for steps, scores in by_steps.items() if BY_TIMESTEP in scores] == [most]
    timesteps = [int(t) for t in found]
    assert len(timesteps) == int(most)
    assert timesteps == sorted(timesteps, reverse=True)
    *_, last = found.values()
    for name in ("cosine", "cosine_ci_low", "cosine_ci_high"):
        assert last[name] == pytest.approx(by_steps[most][name], abs=1e-5)
        for stratum in STRATA:
            expected = by_steps[most][stratum][name]
            assert last[stratum][name] == pytest.approx(expected, abs=1e-5)
    assert BY_TIMESTEP in report.pictures


def test_samples_that_are_compared_on_their_way_are_stored_apart(models: Models) -> None:
    alone, along = (PriorSamples(models.prior, (2,), 0, along=each) for each in (False, True))
    assert alone.digest != along.digest


def test_linear_priors_of_an_earlier_revision_are_not_read(
    one: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's contrastive map learned from the first captions alone, for 100 steps."""
    material = replace(one, folder=tmp_path)

    def fitted(value: float) -> float:
        made = LinearPrior(torch.full((1, 1), value), torch.zeros(1), (1,))
        for name in ("ridge_prior", "contrastive_prior"):
            monkeypatch.setattr(f"corgi_core.evaluation.baselines.{name}", lambda *of: made)
        _, contrastive = linear_priors(material)
        return float(contrastive.weight)

    with monkeypatch.context() as earlier:
        earlier.setattr("corgi_core.evaluation.baselines.LINEAR_PRIORS_REVISION", 1)
        assert fitted(1.0) == fitted(2.0) == 1
    assert fitted(3.0) == fitted(4.0) == 3


def test_what_is_averaged_is_there_caption_by_caption(one: Material, of_one: Evaluation) -> None:
    steps = str(of_one.metrics["protocol"]["prior_steps"])
    for name, scores in (
        (("baseline", SUBSET), of_one.metrics["priors"]["baseline"][SUBSET][steps]),
        ((TEXT_EMBEDDING, "none"), of_one.metrics["baselines"][TEXT_EMBEDDING]),
    ):
        found = of_one.captions[name]
        assert found["cosine"].mean() == pytest.approx(scores["cosine"])
        assert (found["rank"] <= 5).mean() == pytest.approx(scores["recall_at_5"])
        assert tuple(found["key"]) == HeldOut.of(one.images, 100).keys
        assert found["near"].tolist() == [True] * TWINS + [False] * (HELD_OUT - TWINS)
    samples = of_one.samples["baseline", SUBSET]
    assert [text for text, _ in samples] == [
        text for text, _ in of_one.samples[REAL_EMBEDDING, "none"]
    ]
    assert [image.size for _, image in samples] == [(SIDE, SIDE)] * SETTINGS.grid_rows


def test_the_grids_captions_have_pictures_of_further_seeds(
    report: Evaluation, five: Material, pipeline: CorgiPipeline
) -> None:
    """The prior samples with the seed, and the decoder decodes with it."""
    (seed,) = report.seeds
    assert seed == SETTINGS.seed + 1
    displayed = np.linspace(0, SETTINGS.images - 1, SETTINGS.grid_rows).round().astype(int)
    rows = np.array(chosen())[displayed]
    captions = HeldOut.of(five.images, 100)
    read = captions.read(rows, five.image_embeddings, five.text_embeddings)
    tokens, mask, text, _ = read.batch(torch.arange(len(rows)))
    numbered = list(range(len(rows)))
    z = pipeline.prior.sample(tokens, mask, text, seed=seed, sample_ids=numbered)
    for name, embeddings in ((("baseline", SUBSET), z), ((REAL_EMBEDDING, "none"), read.image)):
        decoded = pipeline.decoder.decode(embeddings, seed=seed, sample_ids=numbered)
        found = report.seeds[seed][name]
        assert [text for text, _ in found] == [captions.captions[row] for row in rows]
        for (_, image), expected in zip(found, decoded, strict=True):
            pixels = np.asarray(image).transpose(2, 0, 1) / 255
            np.testing.assert_allclose(pixels, expected.numpy(), atol=1.5 / 255)
        others = [image for _, image in report.samples[name]]
        assert any(a.tobytes() != b.tobytes() for (_, a), b in zip(found, others, strict=True))


@pytest.mark.parametrize(
    ("cosine", "bits", "hash_cosine", "near"),
    [
        (2.0, 0, 0.9, TWINS),
        (0.99999, -1, 0.9, TWINS),
        (2.0, -1, 0.9, 0),
        (2.0, 0, 2.0, 0),
        (2.0, 64, -1.0, HELD_OUT),
    ],
)
def test_a_near_training_image_is_found_by_hash_and_by_embedding(
    one: Material, cosine: float, bits: int, hash_cosine: float, near: int
) -> None:
    """Thresholds that nothing meets turn one of the two off."""
    held_out = HeldOut.of(one.images, 100)
    settings = copy.copy(SETTINGS)
    for name, value in (
        ("near_cosine", cosine), ("near_bits", bits), ("near_hash_cosine", hash_cosine),
    ):  # fmt: skip
        object.__setattr__(settings, name, value)
    found = near_training(training_neighbours(held_out, one), settings)
    assert found.tolist() == [True] * near + [False] * (HELD_OUT - near)


def test_the_hashes_are_of_all_images_and_none_where_pixels_are_decoded_online(
    one: Material, tmp_path: Path
) -> None:
    held_out, fresh = HeldOut.of(one.images, 100), replace(one, folder=tmp_path / "stored")
    training_neighbours(held_out, fresh)
    hashes = ArrayStore.load(fresh.folder / "hashes")
    splits = ("train", "validation", "test")
    assert sorted(hashes.keys) == sorted(key for split in splits for key in one.images.keys(split))
    index = ImageIndex(one.images, SIDE, "letterbox").run(tmp_path / "index", "cpu", 1)
    online = replace(one, folder=tmp_path / "online", pixels=index)
    by_cosine = near_training(training_neighbours(held_out, online), SETTINGS)
    assert by_cosine.sum() == TWINS
    assert not (online.folder / "hashes").exists()


def test_with_more_training_images_a_comparison_takes_longer(
    one: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(HeldOut.of(one.images, 100), (), 5)
    job = TrainingNeighbours(
        chunks, one.images, one.image_embeddings, one.image_embeddings, one.text_embeddings
    )
    assert job.weight == 1
    monkeypatch.setattr("corgi_core.evaluation.training_neighbours.COMPARED_AS_ONE", 1)
    assert job.weight == 1 + TWINS


def test_several_captions_an_image_change_no_number(
    one: Material, of_one: Evaluation, report: Evaluation
) -> None:
    version = one.images.digest  # the captions are another dataset's
    assert replace(report.protocol, data_version=version) == of_one.protocol
    assert of_one.metrics["protocol_digest"] == of_one.protocol.digest
    with pytest.raises(CorgiError, match="protocols: data_version is"):
        report.protocol.check_comparable(of_one.protocol)
    assert report.metrics["protocol"]["held_out_captions"] == HELD_OUT
    fitted = rf"^{LINEAR_PRIOR}"  # to all captions
    tables = [
        table[~table["embeddings"].str.contains(fitted)]
        for table in (report.picture_table(), of_one.picture_table())
    ]
    for ours, expected in ((report.prior_table(), of_one.prior_table()), tables):
        numbers = [c for c in ours.columns if c != "seconds"]
        assert ours[numbers].select_dtypes("number").to_numpy() == pytest.approx(
            expected[numbers].select_dtypes("number").to_numpy(), abs=2e-3, nan_ok=True
        )
    counts = [*report.picture_table()["count"]]  # seven sources, four of them of captions
    assert counts == [SETTINGS.images // 2, *[SETTINGS.images] * (7 + 4)]


def features(pipeline: CorgiPipeline, pictures: Tensor) -> np.ndarray:
    vectors = pipeline.clip.encode_images(pictures)
    return (vectors / vectors.norm(dim=1, keepdim=True)).double().numpy()


def test_picture_scores_are_those_of_the_definitions(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    """Of the real embeddings decoded, against loops and singular values."""
    rows = chosen()
    real = torch.from_numpy(five.pixels.read("pixels")[rows]).float() / 255
    z = torch.from_numpy(five.image_embeddings.read("image")[rows]).float()
    pictures = pipeline.decoder.decode(z, seed=SETTINGS.seed)
    a, b = features(pipeline, real), features(pipeline, pictures)
    found = report.metrics["pictures"][REAL_EMBEDDING]["none"]
    assert found["precision"] == share_inside(b, a)
    assert found["recall"] == share_inside(a, b)
    assert found["frechet_clip"] == pytest.approx(frechet(a, b), abs=1e-4)
    halves = [
        np.mean(np.sum(x * y, 1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))
        for x, y in zip(np.split(a, [8], axis=1), np.split(b, [8], axis=1), strict=True)
    ]
    assert found["clip_similarity_image"] == pytest.approx(np.mean(halves), abs=1e-4)


def expected_grid(pipeline: CorgiPipeline, material: Material, number: int) -> np.ndarray:
    """What the evaluation should show if it took each image's caption of that number."""
    rows = chosen()
    captions = [caption(n, number) for n in rows]
    tokens, mask = pipeline.tokens.encode(captions)
    text = pipeline.clip.encode_texts(captions)
    z = pipeline.prior.sample(tokens, mask, text, seed=SETTINGS.seed)
    own = torch.from_numpy(material.image_embeddings.read("image")[rows]).float()
    columns = {
        "real image": torch.from_numpy(material.pixels.read("pixels")[rows]).float() / 255,
        REAL_EMBEDDING: pipeline.decoder.decode(own, seed=SETTINGS.seed),
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
    captions = [caption(int(key[3:]), 0) for key in five.image_embeddings.keys[:HELD_OUT]]
    tokens, mask = pipeline.tokens.encode(captions)
    text = pipeline.clip.encode_texts(captions)
    z = pipeline.prior.sample(tokens, mask, text, num_steps=1, seed=SETTINGS.seed).double().numpy()
    real = five.image_embeddings.read("image")[:HELD_OUT].astype(np.float64)

    def parts(x: np.ndarray) -> list[np.ndarray]:
        return [p / np.linalg.norm(p, axis=1, keepdims=True) for p in np.split(x, [8], axis=1)]

    similarity = sum(x @ y.T for x, y in zip(parts(z), parts(real), strict=True)) / 2
    found = report.metrics["priors"]["baseline"][SUBSET]["1"]
    assert found["cosine"] == pytest.approx(np.diag(similarity).mean(), abs=2e-3)
    ranks = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
    assert found["recall_at_5"] == pytest.approx((ranks < 5).mean(), abs=1 / HELD_OUT)


def test_baselines_are_those_of_the_definitions(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    """With all embeddings in memory."""
    names, keys = five.text_embeddings.spec["names"], five.image_embeddings.keys.tolist()
    image = torch.from_numpy(five.image_embeddings.read("image")).float()
    text = torch.from_numpy(five.text_embeddings.read("text")[::5][:HELD_OUT]).float()
    real, training = image[:HELD_OUT], image[[keys.index(k) for k in five.images.keys("train")]]
    tokens, mask = pipeline.tokens.encode([caption(n, 0) for n in range(HELD_OUT)])
    means = torch.stack([row[there].mean(dim=0) for row, there in zip(tokens, mask, strict=True)])

    def nearest(queries: Tensor) -> Tensor:
        cosines = mean_encoder_cosine(queries[:, None], training[None], BLOCKS)
        return training[cosines.argmax(dim=1)]

    random = np.random.default_rng(SETTINGS.seed).integers(TWINS, size=HELD_OUT)
    (fitted,) = Path(five.folder).glob("linear_priors/*")
    linear, contrastive = (LinearPrior.load(fitted / name) for name in ("ridge", "contrastive"))
    features = torch.cat([text, means], dim=1)
    expected = {
        REAL_AGAINST_REAL: real[derangement(HELD_OUT)],
        NEAREST_TO_IMAGE: nearest(real),
        NEAREST_TO_TEXT: nearest(text),
        RANDOM_TRAINING: training[random],
        TEXT_EMBEDDING: text,
        LINEAR_PRIOR: linear.predict(features),
        CONTRASTIVE_PRIOR: contrastive.predict(features),
    }
    found = report.metrics["baselines"]
    assert tuple(found) == tuple(expected) == BASELINES
    for name, z in expected.items():
        scores = embedding_scores(z, real, BLOCKS, names)
        assert found[name]["cosine"] == pytest.approx(scores["cosine"], abs=1e-3), name
        assert found[name]["recall_at_5"] == pytest.approx(scores["recall_at_5"], abs=0.09), name
    assert found[NEAREST_TO_IMAGE]["near"]["cosine"] == pytest.approx(1, abs=1e-3)  # the twins


def test_the_shuffled_control_is_the_cosine_to_other_captions_images(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    tokens, mask = pipeline.tokens.encode([caption(n, 0) for n in range(HELD_OUT)])
    text = torch.from_numpy(five.text_embeddings.read("text")[::5][:HELD_OUT]).float()
    steps = pipeline.prior.settings.num_steps
    z = pipeline.prior.sample(
        tokens.half().float(), mask, text, num_steps=steps, seed=SETTINGS.seed
    )
    real = torch.from_numpy(five.image_embeddings.read("image")[:HELD_OUT]).float()
    others = real[derangement(HELD_OUT)]
    expected = embedding_scores(z, others, BLOCKS, five.text_embeddings.spec["names"])
    scores = report.metrics["priors"]["baseline"][SUBSET]
    found = scores[str(steps)][SHUFFLED]
    for name in ("cosine", "recall_at_1", "recall_at_5"):
        assert found[name] == pytest.approx(expected[name], abs=1e-4)
    assert [count for count, each in scores.items() if SHUFFLED in each] == [str(steps)]


def test_pictures_stand_beside_training_images_and_real_against_real(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    """Test images 0 and 1 are training images; CLIP embeds all of them here once more."""
    found = report.metrics["pictures"]
    assert tuple(found)[: len(PICTURE_BASELINES)] == PICTURE_BASELINES
    assert five.pixels is not None
    squares = torch.from_numpy(five.pixels.read("pixels")).float() / 255
    keys, rows = five.pixels.keys.tolist(), chosen()
    training = squares[[keys.index(key) for key in five.images.keys("train")]]
    z, of_training = (pipeline.clip.encode_images(each) for each in (squares[rows], training))
    random = np.random.default_rng(SETTINGS.seed).integers(TWINS, size=HELD_OUT)[rows]
    scores = found[RANDOM_TRAINING]["none"]
    to_image = mean_encoder_cosine(z, of_training[random], BLOCKS).mean()
    assert scores["clip_similarity_image"] == pytest.approx(float(to_image), abs=1e-3)
    assert (scores["count"], scores["nearest_distance"]) == (len(rows), pytest.approx(0, abs=3e-3))
    order = np.random.default_rng(0).permutation(len(rows))
    half, other = order[:4], order[4:]
    scores = found[REAL_AGAINST_REAL]["none"]
    unit = torch.nn.functional.normalize(z, dim=1)
    halves = [np.asarray(unit[each]) for each in (half, other)]
    assert scores["frechet_clip"] == pytest.approx(frechet(*halves), abs=1e-4)
    to_image = mean_encoder_cosine(z[half], z[other], BLOCKS).mean()
    assert scores["clip_similarity_image"] == pytest.approx(float(to_image), abs=1e-3)
    assert scores["count"] == 4


def test_chunks_are_scored_as_the_whole_was(
    pipeline: CorgiPipeline, five: Material, in_chunks: InChunks
) -> None:
    """The formulas from before there were chunks, with everything in memory, are the oracle."""
    found = in_chunks.report.metrics
    captions = [caption(n, 0) for n in range(HELD_OUT)]
    tokens, mask = pipeline.tokens.encode(captions)
    text = torch.from_numpy(five.text_embeddings.read("text")[::5][:HELD_OUT]).float()
    real = torch.from_numpy(five.image_embeddings.read("image")[:HELD_OUT]).float()
    names = five.text_embeddings.spec["names"]
    ours = [found["baselines"][TEXT_EMBEDDING], found["priors"]["baseline"][SUBSET]["1"]]
    tokens = tokens.half().float()  # as they are stored
    z = pipeline.prior.sample(tokens, mask, text, num_steps=1, seed=SETTINGS.seed)
    for scores, predicted in zip(ours, (text, z), strict=True):
        expected = embedding_scores(predicted, real, BLOCKS, names)
        whole = {k: each for k, each in scores.items() if k not in (*STRATA, SHUFFLED, BY_TIMESTEP)}
        assert without_intervals(numbers(whole)) == {
            name: pytest.approx(value, abs=1e-5) for name, value in expected.items()
        }
    rows = chosen()
    assert five.pixels is not None
    squares = torch.from_numpy(five.pixels.read("pixels")[rows]).float() / 255
    z = pipeline.prior.sample(tokens[rows], mask[rows], text[rows], seed=SETTINGS.seed)
    known = torch.from_numpy(five.image_embeddings.read("image")[-TWINS:]).float()
    for variant, subset, embeddings in (
        (REAL_EMBEDDING, "none", real[rows]),
        ("baseline", SUBSET, z),
    ):
        pictures = pipeline.decoder.decode(embeddings, seed=SETTINGS.seed)
        expected = picture_scores(pipeline.clip, pictures, squares, text[rows], known)
        whole = without_intervals(numbers(found["pictures"][variant][subset]))
        control, *_ = (whole.pop(part, None) for part in (SHUFFLED, *STRATA))
        assert whole == {name: pytest.approx(each, abs=1e-4) for name, each in expected.items()}
    vectors = pipeline.clip.encode_images(pictures)
    others = derangement(len(rows))
    to_text = mean_encoder_cosine(vectors, text[rows][others], BLOCKS)
    to_image = mean_encoder_cosine(vectors, pipeline.clip.encode_images(squares)[others], BLOCKS)
    of_all = {name: each for name, each in control.items() if name not in STRATA}
    assert without_intervals(of_all) == {
        "clip_similarity_image": pytest.approx(float(to_image.mean()), abs=1e-4),
        "clip_similarity_text": pytest.approx(float(to_text.mean()), abs=1e-4),
        "clip_score": pytest.approx(100 * float(to_text.clamp(min=0).mean()), abs=1e-2),
        "count": len(rows),
    }


def test_pictures_of_baselines_are_those_that_the_decoder_makes_of_their_predictions(
    pipeline: CorgiPipeline, five: Material, report: Evaluation
) -> None:
    rows = chosen()
    assert five.pixels is not None
    squares = torch.from_numpy(five.pixels.read("pixels")[rows]).float() / 255
    text = torch.from_numpy(five.text_embeddings.read("text")[::5][rows]).float()
    tokens, mask = pipeline.tokens.encode([caption(n, 0) for n in rows])
    means = torch.stack([row[there].mean(dim=0) for row, there in zip(tokens, mask, strict=True)])
    (fitted,) = Path(five.folder).glob("linear_priors/*")
    features = torch.cat([text, means], dim=1)
    predicted = {TEXT_EMBEDDING: text} | {
        name: LinearPrior.load(fitted / folder).predict(features)
        for name, folder in ((LINEAR_PRIOR, "ridge"), (CONTRASTIVE_PRIOR, "contrastive"))
    }
    real = pipeline.clip.encode_images(squares)
    for name, z in predicted.items():
        pictures = pipeline.decoder.decode(z, seed=SETTINGS.seed)
        cosines = mean_encoder_cosine(pipeline.clip.encode_images(pictures), real, BLOCKS)
        found = report.metrics["pictures"][name]["none"]
        assert found["clip_similarity_image"] == pytest.approx(float(cosines.mean()), abs=2e-3)


def arrays_of(folder: Path) -> dict[str, bytes]:
    """All that is stored in chunks, but for wall times."""
    return {
        f"{part}/{shard}/{name}": store.read_shard(shard, name).tobytes()
        for part, names in (
            ("scores", ("once/cosines", "once/nearer", "1/cosines", "1/nearer")),
            ("embeddings", ("z",)), ("pictures", ("clip", "to_text", "pictures")),
        )
        for store in [ArrayStore.load(folder / part)]
        for shard in store.shards
        for name in names
        if has(store, shard, name)
    }  # fmt: skip


def has(store: ArrayStore, shard: str, name: str) -> bool:
    try:
        return len(store.read_shard(shard, name)) > 0
    except CorgiError:
        return False


def test_the_number_of_threads_changes_no_bit(
    models: Models, five: Material, tmp_path: Path, small_chunks: None, in_chunks: InChunks
) -> None:
    def by_three(job: ArrayJob, folder: Path) -> ArrayStore:
        return job.run(folder, "cpu", threads=3)

    three = evaluated(models, replace(five, folder=tmp_path, run=by_three))
    assert in_chunks.report.digest == three.digest
    stored = arrays_of(in_chunks.folder)
    assert stored == arrays_of(tmp_path)
    assert sum(name.endswith("/pictures") for name in stored) == 8  # of the displayed chunk alone


class EndedError(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_evaluation_goes_on(
    models: Models, five: Material, report: Evaluation, tmp_path: Path, small_chunks: None
) -> None:
    def stopping(job: ArrayJob, folder: Path) -> ArrayStore:
        compute = job.opened("cpu", 1)

        def until_the_third(shard: str) -> Arrays:
            if folder.name == "scores" and len(list(folder.glob("*.safetensors"))) == 2:
                raise EndedError
            return compute(shard)

        return compute_missing(folder, job.images, job.spec, until_the_third, job.what)

    with pytest.raises(EndedError):
        evaluated(models, replace(five, folder=tmp_path, run=stopping))
    run = Counting()
    again = evaluated(models, replace(five, folder=tmp_path, run=run))
    assert run.computed == ALL_CHUNKS | {"hashes": 0, "neighbours": 0, "scores": 24 - 2}
    assert again.metrics.keys() == report.metrics.keys()


def test_a_torn_chunk_is_computed_again_and_no_other(
    models: Models, five: Material, tmp_path: Path, small_chunks: None, in_chunks: InChunks
) -> None:
    assert in_chunks.computed == ALL_CHUNKS
    folder, run = in_chunks.copied(tmp_path / "chunks"), Counting()
    torn = sorted((folder / "pictures").glob("*.safetensors"))[4]
    torn.write_bytes(torn.read_bytes()[:-7])
    again = evaluated(models, replace(five, folder=folder, run=run))
    assert again.digest == in_chunks.report.digest
    assert run.computed == dict.fromkeys(ALL_CHUNKS, 0) | {"pictures": 1}


def test_another_prior_costs_its_own_chunks_only(
    pipeline: CorgiPipeline,
    models: Models,
    five: Material,
    tmp_path: Path,
    small_chunks: None,
    in_chunks: InChunks,
) -> None:
    run, alone = Counting(), in_chunks.report
    five = replace(five, folder=in_chunks.copied(tmp_path / "chunks"), run=run)
    other = PriorModel(
        type(pipeline.prior.network)(pipeline.prior.network.shape).eval(), pipeline.prior.bank,
        pipeline.prior.settings, pipeline.prior.encoders, {},
    )  # fmt: skip
    priors = {
        ("baseline", SUBSET): models.prior,
        ("other", SUBSET): stored_prior(other, tmp_path / "other"),
    }
    both = evaluate(priors, models.decoder, five, SETTINGS)
    of_one_prior = {
        "scores": 3, "validation_scores": 1, "embeddings": 3, "pictures": 3,
        "picture_neighbours": 1, "seed_embeddings": 1, "seed_pictures": 1,
        "balls": 1, "biases": 1, "distances": 1, "kernel_parts": 1, "inside": 1,
    }  # fmt: skip
    assert run.computed == dict.fromkeys(ALL_CHUNKS, 0) | of_one_prior
    assert numbers(both.metrics["priors"]["baseline"]) == numbers(
        alone.metrics["priors"]["baseline"]
    )
    assert numbers(both.metrics["priors"]["other"]) != numbers(alone.metrics["priors"]["baseline"])
    assert evaluated(models, five).digest == alone.digest
    assert run.computed == dict.fromkeys(ALL_CHUNKS, 0)
    assert len(ArrayStore.load(five.folder / "pictures").shards) == 24  # the other's are gone


def test_at_most_so_many_captions_are_scored(
    models: Models, five: Material, tmp_path: Path
) -> None:
    """And the real images may be stored larger than the pictures are."""
    settings = replace(SETTINGS, captions=5, images=4)
    stored = pixels(five.images, tmp_path / "pixels", 2 * SIDE)
    few = evaluate(
        {("baseline", SUBSET): models.prior},
        models.decoder,
        replace(five, folder=tmp_path / "chunks", pixels=stored),
        settings,
    )
    assert few.metrics["protocol"]["image_size"] == SIDE
    assert few.metrics["protocol"]["held_out_captions"] == 5
    assert few.metrics["baselines"][TEXT_EMBEDDING]["count"] == 5
    assert few.metrics["pictures"]["baseline"][SUBSET]["count"] == 4


def test_pictures_with_another_guidance_are_those_of_a_decoder_with_this_guidance(
    pipeline: CorgiPipeline, models: Models, one: Material, tmp_path: Path
) -> None:
    priors, settings = {("baseline", SUBSET): models.prior}, replace(SETTINGS, images=8)
    own = pipeline.decoder.settings.guidance
    one = replace(one, folder=tmp_path / "chunks")
    several = evaluate(priors, models.decoder, one, replace(settings, guidances=(own, 3.5))).metrics
    decoder = type(pipeline.decoder)(
        pipeline.decoder.network, replace(pipeline.decoder.settings, guidance=3.5),
        pipeline.decoder.encoders, {},
    )  # fmt: skip
    guided = evaluate(priors, stored_decoder(decoder, tmp_path / "decoder"), one, settings).metrics
    decoded = (REAL_EMBEDDING, "baseline")
    by_guidance = {
        guidance: {name: numbers(pictures[name]) for name in decoded}
        for guidance, pictures in several["guidances"].items()
    }
    assert by_guidance == {
        f"{own:g}": {name: numbers(several["pictures"][name]) for name in decoded},
        "3.5": {name: numbers(guided["pictures"][name]) for name in decoded},
    }
    assert by_guidance[f"{own:g}"] != by_guidance["3.5"]


def test_priors_alone_are_scored_as_beside_a_decoder(
    models: Models, five: Material, report: Evaluation, tmp_path: Path
) -> None:
    material = replace(five, pixels=None, clip=(), folder=tmp_path)
    alone = evaluate({("baseline", SUBSET): models.prior}, None, material, SETTINGS)
    numbers = alone.prior_table().drop(columns="seconds")
    assert numbers.equals(report.prior_table().drop(columns="seconds"))
    assert "pictures" not in alone.metrics


def test_embeddings_of_different_encoders_are_refused(five: Material) -> None:
    class Others(ArrayStore):
        @property
        def spec(self) -> dict[str, object]:
            return super().spec | {"encoder": "another-clip"}

    with pytest.raises(CorgiError, match="captions by another-clip"):
        replace(five, text_embeddings=Others(five.text_embeddings.folder))


def test_priors_of_other_steps_are_not_compared(
    pipeline: CorgiPipeline, models: Models, five: Material, tmp_path: Path
) -> None:
    prior = pipeline.prior
    settings = replace(prior.settings, num_steps=prior.settings.num_steps + 1)
    other = PriorModel(prior.network, prior.bank, settings, prior.encoders, {})
    priors = {
        ("baseline", SUBSET): models.prior,
        ("other", SUBSET): stored_prior(other, tmp_path / "other"),
    }
    with pytest.raises(CorgiError, match="sampling steps"):
        evaluate(priors, models.decoder, five, SETTINGS)


def test_a_prior_of_another_clip_is_refused_before_anything_is_computed(
    models: Models, one: Material, tmp_path: Path
) -> None:
    def nothing(job: ArrayJob, folder: object) -> ArrayStore:
        raise AssertionError(f"{job.what} into {folder}")

    settings = replace(SETTINGS, other_priors=(str(saved_prior(tmp_path / "kandinsky")),))
    with pytest.raises(CorgiError, match="samples embeddings of one CLIP encoder, 16 wide"):
        evaluate({("baseline", SUBSET): models.prior}, None, replace(one, run=nothing), settings)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("zero_shot", [True, False])
def test_what_the_linear_priors_lack_is_named_before_anything_is_computed(
    models: Models, one: Material, tmp_path: Path, split: str, zero_shot: bool
) -> None:
    splits = [each for each in ("train", "validation", "test") for _ in range(3)]
    made = [
        Sample(f"{number}", b"", None if each == split else ["a"], each, "made", f"{number}")
        for number, each in enumerate(splits)
    ]
    lacking = write_dataset(tmp_path, made, shard_size=9)
    if zero_shot:
        others = TrainingData(lacking, one.image_embeddings, one.text_embeddings)
        material = replace(one, run=not_run, other_training=others)
    else:
        material = replace(one, run=not_run, images=lacking)
    with pytest.raises(CorgiError, match=f"no {split} image has a caption") as refused:
        evaluated(models, material)
    assert "in the data that the models learned from" in refused.value.remedy


def not_run(job: ArrayJob, folder: Path) -> ArrayStore:
    raise AssertionError(f"{job.what} before the captions were looked for")
