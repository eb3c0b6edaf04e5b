"""Vendi score, memorisation and CLIP score against closed forms and scipy."""

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu

from corgi_core.errors import CorgiError
from corgi_core.metrics.clip_score import clip_score
from corgi_core.metrics.memorisation import memorisation, memorisation_scores
from corgi_core.metrics.vendi import vendi


@pytest.mark.parametrize("width", [7, 40])  # more pictures than width, and fewer
def test_groups_of_equal_pictures_are_worth_as_many_as_there_are_groups(width):
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(width, 5)))[0].T
    features = np.repeat(directions, 6, axis=0) * np.linspace(1, 9, 30)[:, None]
    assert vendi(features) == pytest.approx(5)


def test_vendi_is_the_entropy_of_the_matrix_of_cosines(monkeypatch):
    monkeypatch.setattr("corgi_core.metrics.vendi.ROWS", 16)
    features = np.random.default_rng(1).normal(size=(50, 6)) + 0.5
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(unit @ unit.T / 50).clip(min=1e-300)
    assert vendi(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_memorisation_is_the_statistic_of_mann_and_whitney():
    random = np.random.default_rng(2)
    generated, held_out = (random.integers(0, 50, size=n) / 50 for n in (90, 70))  # with ties
    theirs = mannwhitneyu(generated, held_out).statistic / (90 * 70)
    assert memorisation(generated, held_out).memorisation == pytest.approx(theirs)


def test_copies_are_nearer_than_nearly_all_held_out_images():
    random = np.random.default_rng(3)
    held_out, fresh = random.normal(size=(2, 5000)) * 0.1 + 0.6
    found = memorisation(fresh, held_out)
    assert found.memorisation == pytest.approx(0.5, abs=0.02)
    assert found.copies == pytest.approx(0.01, abs=0.006)
    copied = np.concatenate([fresh[:4500], np.ones(500)])
    assert memorisation(copied, held_out).copies == pytest.approx(0.11, abs=0.01)


def test_memorisation_and_copies_have_the_intervals_of_scipys_bootstrap_of_pairs():
    random = np.random.default_rng(6)
    held_out = random.integers(0, 60, size=300) / 60  # with ties
    generated = np.where(random.random(300) < 0.1, 1.1, 0.7 * held_out + 0.3 * random.random(300))
    found = memorisation_scores(generated, held_out)
    for name in ("memorisation", "copies"):
        assert found[name] == getattr(memorisation(generated, held_out), name)

        def share(ours, real, of=name):
            return getattr(memorisation(ours, real), of)

        theirs = bootstrap(
            (generated, held_out), share, paired=True, vectorized=False, n_resamples=1500,
            method="percentile", rng=np.random.default_rng(7),
        ).confidence_interval  # fmt: skip
        assert found[f"{name}_ci_low"] == pytest.approx(theirs.low, abs=0.01)
        assert found[f"{name}_ci_high"] == pytest.approx(theirs.high, abs=0.01)
    assert memorisation_scores(np.ones(1), np.ones(1)) == {"memorisation": 0.5, "copies": 0.0}


def test_clip_score_of_known_angles():
    angles = np.array([0, np.pi / 3, np.pi / 2, np.pi])
    assert clip_score(np.cos(angles)) == pytest.approx(100 * (1 + 0.5 + 0 + 0) / 4)


def test_similarities_that_are_none_or_broken_are_refused():
    with pytest.raises(CorgiError, match="0 generated pictures"):
        memorisation(np.empty(0), np.ones(3))
    with pytest.raises(CorgiError, match="held-out"):
        memorisation(np.ones(3), np.array([np.nan]))
