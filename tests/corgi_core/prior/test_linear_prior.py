"""The linear priors: sums, penalty and weights against scikit-learn's ridge, on stores on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.linear_model import Ridge

from corgi_core.data.dataset import write_dataset
from corgi_core.data.keys import ListedKeys, SplitKeys
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.shards import Sample
from corgi_core.encoders.similarity import recall_at
from corgi_core.errors import CorgiError
from corgi_core.prior import contrastive_linear, ridge
from corgi_core.prior.contrastive_linear import contrastive_prior, loss_of
from corgi_core.prior.linear import LinearPrior, caption_features
from corgi_core.prior.ridge import PENALTIES, RidgeSums, caption_sums, fitted, ridge_prior
from tests.helpers.captioned_stores import DIMS, TOKEN, Made, captioned_stores


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return captioned_stores(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def prior(made: Made) -> LinearPrior:
    return ridge_prior(made.dataset, made.images, made.texts)


def test_penalty_and_weights_are_those_of_scikit_learn(made: Made, prior: LinearPrior) -> None:
    """Fitted to centred features of which text and tokens have a mean variance of 1 each."""
    (x, z), (held_x, held_z) = made.of("train"), made.of("validation")
    scale = np.repeat([x[:, :12].var(0).mean(), x[:, 12:].var(0).mean()], [12, TOKEN]) ** -0.5
    errors, models = {}, {}
    for penalty in PENALTIES:
        models[penalty] = Ridge(alpha=penalty * len(x)).fit(x * scale, z)
        errors[penalty] = np.square(models[penalty].predict(held_x * scale) - held_z).mean()
    best = min(errors, key=lambda penalty: errors[penalty])
    assert PENALTIES[0] < best < PENALTIES[-1]
    assert prior.card["penalty"] == best
    assert prior.card["validation_error"] == pytest.approx(errors[best], rel=1e-6)
    assert prior.card["captions"] == len(x) == 300
    found = prior.predict(torch.from_numpy(held_x).float())
    np.testing.assert_allclose(found, models[best].predict(held_x * scale), atol=1e-4)


def test_parts_of_any_size_have_the_same_sums(
    made: Made, prior: LinearPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge, "FEWEST_IN_A_PART", 1)
    monkeypatch.setattr(ridge, "ROWS_AT_ONCE", 7)
    again = ridge_prior(made.dataset, made.images, made.texts)
    torch.testing.assert_close(again.weight, prior.weight, rtol=1e-5, atol=1e-6)
    assert again.card["penalty"] == prior.card["penalty"]


def test_many_shards_are_summed_in_a_bounded_number_of_parts(
    made: Made, prior: LinearPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part's sums are large, whatever the number of shards."""
    monkeypatch.setattr(ridge, "FEWEST_IN_A_PART", 1)
    monkeypatch.setattr(ridge, "PARTS", 2)
    sizes = list[int]()

    def read_only(function, common, items, what):
        """As workers' results are, which lie in shared memory."""
        sizes.extend(len(item) for item in items)
        for item in items:
            found = function(common, item)
            for sums in (*found.folds, found.validation):
                sums.gram.flags.writeable = sums.cross.flags.writeable = False
            yield found

    again = ridge_prior(made.dataset, made.images, made.texts, read_only)
    assert sizes == [2, 2]
    torch.testing.assert_close(again.weight, prior.weight, rtol=1e-5, atol=1e-6)


def test_it_is_saved_and_loaded_as_it_was(prior: LinearPrior, tmp_path: Path) -> None:
    prior.save(tmp_path / "linear")
    loaded = LinearPrior.load(tmp_path / "linear")
    assert torch.equal(loaded.weight, prior.weight)
    assert (loaded.digest, loaded.card, loaded.reads_tokens) == (prior.digest, prior.card, True)


def test_the_contrastive_term_buys_retrieval_and_is_the_same_each_time(
    made: Made, prior: LinearPrior
) -> None:
    other = contrastive_prior(prior, made.dataset, made.images, made.texts)
    again = contrastive_prior(prior, made.dataset, made.images, made.texts)
    assert torch.equal(other.weight, again.weight)
    x, z = (torch.from_numpy(each[::2]).float() for each in made.of("train"))  # distinct images
    before, after = (each.predict(x) for each in (prior, other))
    assert loss_of(after, z, DIMS) < loss_of(before, z, DIMS)
    assert recall_at(after, z, (1,), DIMS)[1] > recall_at(before, z, (1,), DIMS)[1]


def test_the_contrastive_term_reads_the_tokens_in_slices(
    made: Made, prior: LinearPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of all captions as float32 would be tens of gigabytes."""
    whole, read = contrastive_prior(prior, made.dataset, made.images, made.texts), list[int]()

    def counted(text: np.ndarray, tokens: RaggedArray | None) -> np.ndarray:
        read.append(len(text))
        return caption_features(text, tokens)

    monkeypatch.setattr(contrastive_linear, "ROWS_AT_ONCE", 40)
    monkeypatch.setattr(contrastive_linear, "caption_features", counted)
    sliced = contrastive_prior(prior, made.dataset, made.images, made.texts)
    assert read == [40] * 7 + [20]
    assert torch.equal(sliced.weight, whole.weight)


def test_the_contrastive_loss_is_that_of_the_definition() -> None:
    random = np.random.default_rng(6)
    a, b = random.normal(size=(2, 9, 12))
    parts = [
        x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
        for x, y in zip(np.split(a, [4], 1), np.split(b, [4], 1), strict=True)
    ]
    logits = sum(parts) / 2 / 0.07
    own = np.diag(logits)
    contrast = [np.mean(logsumexp(logits, axis=axis) - own) for axis in (0, 1)]
    found = loss_of(torch.from_numpy(a), torch.from_numpy(b), DIMS)
    assert float(found) == pytest.approx(np.square(a - b).mean() + 0.2 * np.mean(contrast))


def test_a_caption_without_tokens_has_a_mean_of_zero() -> None:
    tokens = RaggedArray.of_lengths(np.array([[1.0], [3.0], [5.0]]), np.array([0, 2, 0, 1, 0]))
    found = caption_features(np.zeros((5, 1)), tokens)
    assert found[:, 1].tolist() == [0, 2, 0, 5, 0]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_captions_is_named(made: Made, tmp_path: Path, split: str) -> None:
    by_key = {k: each for each in ("train", "validation", "test") for k in made.dataset.keys(each)}
    others = [
        Sample(key, b"", ["one"], "test" if each == split else each, "made", key)
        for key, each in sorted(by_key.items())
    ]
    dataset = write_dataset(tmp_path / "images", others, shard_size=60)
    with pytest.raises(CorgiError, match=f"no {split} image has a caption"):
        ridge_prior(dataset, made.images, made.texts)


def test_validation_images_that_do_not_count_do_not_choose_the_penalty(made: Made) -> None:
    *left_out, some, others = sorted(made.dataset.keys("validation"))
    stores = made.images, made.texts
    found = ridge_prior(made.dataset, *stores, left_out=left_out)
    sums = caption_sums(SplitKeys(made.dataset, "train"), ListedKeys((some, others)), *stores)
    assert found.card == fitted(sums.train, sums.validation, DIMS).card
    assert found.card["validation_captions"] == 4
    with pytest.raises(CorgiError, match=r"all validation images .* near twins"):
        ridge_prior(made.dataset, *stores, left_out=[*left_out, some, others])


def test_features_without_variance_predict_the_mean() -> None:
    some = RidgeSums.of(np.ones((3, 12), np.float32), np.ones((3, 12), np.float32))
    constant = fitted(some, some, DIMS)
    assert constant.predict(torch.ones(1, 12)).tolist() == [[1.0] * 12]


def test_weights_of_another_width_are_refused() -> None:
    with pytest.raises(CorgiError, match="does not fit embeddings of width 12"):
        LinearPrior(torch.zeros(3, 2), torch.zeros(2), DIMS)
