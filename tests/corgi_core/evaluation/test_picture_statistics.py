"""Statistics over stored features: those of the whole sets, whoever computes them, cut as it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.arrays import (
    ArrayStore,
    compute_missing,
    finished_store,
    missing_shards,
    write_shard,
)
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import Chunks, HeldOut
from corgi_core.evaluation.picture_features import CLIP, INCEPTION, RealImages, check_finite
from corgi_core.evaluation.picture_manifolds import PictureManifolds
from corgi_core.evaluation.picture_sets import Compared, PictureSet, SetFeatures
from corgi_core.evaluation.picture_statistics import PictureStatistics
from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.features import unit_rows
from corgi_core.metrics.frechet import SumsByPart, bias_of_two, frechet_by_part
from corgi_core.metrics.kid import kid
from corgi_core.metrics.precision_recall import Manifold, inside
from corgi_core.metrics.vendi import vendi_by_part
from tests.helpers.evaluations import in_this_process
from tests.helpers.picture_metrics import frechet

COUNT, WIDTHS = 61, {CLIP: 9, INCEPTION: 13}
OURS, REAL = RealImages(8), RealImages()  # two cases, whatever their pictures are
PAIR = Compared(PictureSet(OURS), PictureSet(REAL))
HALVES = Compared(PictureSet(REAL, half=0), PictureSet(REAL, half=1))
KEYS = tuple(f"key{n:02}" for n in range(COUNT))
CAPTIONS = HeldOut(("0",) * COUNT, KEYS, ("a caption",) * COUNT)
Run = Callable[[ArrayJob, Path], ArrayStore]


def features(case: RealImages, extractor: str) -> np.ndarray:
    """A case's features of all captions; ours differ in mean and scale."""
    seed = [case is REAL, extractor == CLIP]
    random = np.random.default_rng(seed).normal(size=(COUNT, WIDTHS[extractor]))
    return (random if case is REAL else 0.3 + 1.2 * random).astype(np.float32)


def stored(folder: Path, size: int, spoilt: float | None = None) -> tuple[Any, ArrayStore]:
    """The features in chunks of so many pictures, two displayed ones first."""
    chunks = Chunks(CAPTIONS, (REAL, OURS), size, displayed=(0, 40))

    def compute(shard: str) -> dict[str, np.ndarray]:
        case, rows = chunks.part(shard)
        found = {name: features(case, name)[rows] for name in WIDTHS}
        if spoilt is not None:
            found[INCEPTION] = np.where(rows[:, None] == 7, spoilt, found[INCEPTION])
        return {"keys": chunks.keys(shard), **found}

    return chunks, compute_missing(folder, chunks, {"made": spoilt}, compute, "made")


class Found(NamedTuple):
    """All that is computed of the pairs."""

    sets: PictureStatistics
    manifolds: PictureManifolds


def statistics(
    folder: Path, size: int = 11, run: Run = in_this_process, among: np.ndarray | None = None
) -> Found:
    of = SetFeatures(*stored(folder / f"features-{size}", size), among)
    given = run, folder / "statistics", of, tuple(WIDTHS), [PAIR, HALVES]
    return Found(PictureStatistics.computed(*given), PictureManifolds.computed(*given))


def by_two_workers(job: ArrayJob, folder: Path) -> ArrayStore:
    """As `Compute.arrays` has it: workers that share the shards, which finish in another order."""
    missing = missing_shards(folder, job.images, job.spec)
    workers = [pickle.loads(pickle.dumps(job)).opened("cpu", threads) for threads in (1, 2)]
    for number, shard in enumerate(reversed(missing)):
        write_shard(folder, shard, workers[number % 2](shard.name))
    return finished_store(folder, job.images, job.spec, missing)


def bits(found: Found) -> list[bytes]:
    """All that the scores are computed from."""
    of_pairs = [
        np.array(of(pair, extractor)).tobytes()
        for of in (found.sets.frechet, found.sets.bias, found.sets.kernel_distance)
        for extractor in WIDTHS
        for pair in (PAIR, HALVES)
    ]
    insides = [
        a.tobytes() for pair in (PAIR, HALVES) for a in found.manifolds.inside(pair).values()
    ]
    return [*of_pairs, *insides, found.sets.vendi(PAIR).tobytes()]


def sums_are_stored(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Of as few pictures as there are here, in chunks of so many."""
    module = "corgi_core.evaluation.picture_statistics"
    monkeypatch.setattr(f"{module}.FEWEST_SUMMED", 2)
    monkeypatch.setattr(f"{module}.SUMMED_AT_ONCE", at_once)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return statistics(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("size", [11, 5, 200])
def test_two_workers_and_other_chunks_of_features_give_the_same_bits(
    whole: Found, tmp_path: Path, size: int
) -> None:
    assert bits(statistics(tmp_path, size, by_two_workers)) == bits(whole)


def test_sums_of_many_pictures_are_stored_and_differ_by_their_rounding_alone(
    whole: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums_are_stored(monkeypatch, at_once=20)
    cut = statistics(tmp_path / "here")
    assert len(ArrayStore.load(tmp_path / "here" / "statistics" / "sums").shards) == 2 * 4
    assert bits(statistics(tmp_path / "there", 5, by_two_workers)) == bits(cut)
    for extractor in WIDTHS:
        ours, theirs = (each.sets.frechet(PAIR, extractor) for each in (cut, whole))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        assert cut.sets.bias(PAIR, extractor) == pytest.approx(
            whole.sets.bias(PAIR, extractor), rel=1e-9
        )
    np.testing.assert_allclose(cut.sets.vendi(PAIR), whole.sets.vendi(PAIR), rtol=1e-9)


def test_sums_of_few_pictures_for_their_width_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be larger than the features; an extractor of fewer features stores its own."""
    statistics(tmp_path / "none")
    assert not (tmp_path / "none" / "statistics" / "sums").exists()
    monkeypatch.setattr("corgi_core.evaluation.picture_statistics.FEWEST_SUMMED", 5)
    statistics(tmp_path / "one")
    store = ArrayStore.load(tmp_path / "one" / "statistics" / "sums")
    assert store.mapped(store.shards[0], f"{CLIP}/mean").shape == (8, 9)
    with pytest.raises(CorgiError):
        store.mapped(store.shards[0], f"{INCEPTION}/mean")


def test_a_picture_less_deals_all_others_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chunks have the pictures that they had; their stored sums are of other parts."""
    sums_are_stored(monkeypatch, at_once=20)
    statistics(tmp_path)
    monkeypatch.setattr(f"{__name__}.CAPTIONS", CAPTIONS.taken(np.arange(COUNT - 1)))
    found = statistics(tmp_path, size=12).sets.frechet(PAIR, INCEPTION)
    expected = (SumsByPart.of(features(case, INCEPTION)[:-1]) for case in (OURS, REAL))
    np.testing.assert_allclose(found, frechet_by_part(*expected), rtol=1e-9)


def test_they_are_the_metrics_of_the_whole_sets(whole: Found) -> None:
    real, ours = (features(case, INCEPTION) for case in (REAL, OURS))
    sums = [SumsByPart.of(each) for each in (ours, real)]
    np.testing.assert_allclose(
        whole.sets.frechet(PAIR, INCEPTION), frechet_by_part(*sums), rtol=1e-9
    )
    assert whole.sets.frechet(PAIR, INCEPTION)[0] == pytest.approx(frechet(ours, real), rel=1e-4)
    expected_bias = bias_of_two(*(each.bias for each in sums))
    assert whole.sets.bias(PAIR, INCEPTION) == pytest.approx(expected_bias, rel=1e-9)
    assert whole.sets.kernel_distance(PAIR, INCEPTION).mean() == pytest.approx(
        kid(real, ours).value
    )
    expected = inside(Manifold.of(real), Manifold.of(ours)).by_feature
    found = whole.manifolds.inside(PAIR)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_clip_features_are_of_norm_1(whole: Found) -> None:
    real, ours = (features(case, CLIP) for case in (REAL, OURS))
    assert whole.sets.kernel_distance(PAIR, CLIP).mean() == pytest.approx(
        cmmd(real, ours).value, rel=1e-4, abs=1e-5
    )
    expected = frechet(unit_rows(ours), unit_rows(real))
    assert whole.sets.frechet(PAIR, CLIP)[0] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(whole.sets.vendi(PAIR), vendi_by_part(ours), rtol=1e-6)


def test_the_halves_share_no_picture_and_have_all_but_an_odd_one(whole: Found) -> None:
    half, other = (each.rows(COUNT) for each in (HALVES.ours, HALVES.theirs))
    assert len(half) == len(other) == COUNT // 2
    assert not {*half.tolist()} & {*other.tolist()}
    real = features(REAL, INCEPTION)
    found = whole.sets.kernel_distance(HALVES, INCEPTION).mean()
    assert found == pytest.approx(kid(real[other], real[half]).value)
    odd = np.setdiff1d(np.arange(COUNT), [*half, *other])
    expected = frechet(real[half], real[[*other, *odd]])  # the odd one is in the sums
    found = whole.sets.frechet(HALVES, INCEPTION)
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert len(found) == 1 + 4


@pytest.mark.parametrize("at_once", [None, 20])
def test_a_part_of_the_captions_is_as_if_there_were_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int | None
) -> None:
    """Whether its sums are stored or not; the same bits by other chunks and two workers."""
    if at_once is not None:
        sums_are_stored(monkeypatch, at_once)
    among = np.flatnonzero(np.random.default_rng(1).random(COUNT) < 0.6)
    found = statistics(tmp_path / "here", among=among)
    assert bits(found) == bits(statistics(tmp_path / "there", 5, by_two_workers, among))
    real, ours = (features(case, INCEPTION)[among] for case in (REAL, OURS))
    sums = [SumsByPart.of(each) for each in (ours, real)]
    distances = found.sets.frechet(PAIR, INCEPTION)
    np.testing.assert_allclose(distances, frechet_by_part(*sums), rtol=1e-9)
    bias = bias_of_two(*(each.bias for each in sums))
    assert found.sets.bias(PAIR, INCEPTION) == pytest.approx(bias, rel=1e-9)
    kernel = found.sets.kernel_distance(PAIR, INCEPTION)
    assert kernel.mean() == pytest.approx(kid(real, ours).value)
    half, other = (each.rows(len(among)) for each in (HALVES.ours, HALVES.theirs))
    halves = found.sets.kernel_distance(HALVES, INCEPTION).mean()
    assert halves == pytest.approx(kid(real[other], real[half]).value)
    vendi = vendi_by_part(features(OURS, CLIP)[among])
    np.testing.assert_allclose(found.sets.vendi(PAIR), vendi, rtol=1e-6)


def test_what_was_killed_goes_on_and_what_is_there_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real images' statistics serve the next model."""
    sums_are_stored(monkeypatch, at_once=100)
    computed = dict[str, int]()

    def counting(job: ArrayJob, folder: Path) -> ArrayStore:
        store = in_this_process(job, folder)
        computed[folder.name] = store.recomputed
        return store

    every = SetFeatures(*stored(tmp_path / "features", 11))

    def of(*pairs: Compared) -> None:
        given = counting, tmp_path / "statistics", every, tuple(WIDTHS), pairs
        PictureStatistics.computed(*given)
        PictureManifolds.computed(*given)

    of(HALVES, Compared(PAIR.theirs, PAIR.theirs))
    pairs = {"kernel_parts": 2, "inside": 2, "distances": 2}
    assert computed == {"balls": 3, "sums": 1, "biases": 3, **pairs}
    of(HALVES, Compared(PAIR.theirs, PAIR.theirs), PAIR)
    assert computed == dict.fromkeys(computed, 1)
    torn = next((tmp_path / "statistics" / "sums").glob(f"{OURS.digest}*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-1])
    of(HALVES, Compared(PAIR.theirs, PAIR.theirs), PAIR)
    assert computed == dict.fromkeys(computed, 0) | {"sums": 1}


def test_statistics_of_other_features_are_stale_and_computed_again(tmp_path: Path) -> None:
    """By what the features are of: another extractor, another version of the data."""
    statistics(tmp_path)
    others = SetFeatures(*stored(tmp_path / "others", 11, spoilt=0.0))
    found = PictureStatistics.computed(
        in_this_process, tmp_path / "statistics", others, tuple(WIDTHS), [PAIR, HALVES]
    )
    assert (found.distances.recomputed, found.biases.recomputed) == (2, 4)
    changed = features(OURS, INCEPTION)
    changed[7] = 0
    real = features(REAL, INCEPTION)
    real[7] = 0
    assert found.frechet(PAIR, INCEPTION)[0] == pytest.approx(frechet(changed, real), rel=1e-4)


def test_features_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    spoilt = SetFeatures(*stored(tmp_path / "features", 11, spoilt=np.nan))
    for computed in (PictureStatistics.computed, PictureManifolds.computed):
        with pytest.raises(CorgiError, match="are not finite"):
            computed(in_this_process, tmp_path, spoilt, tuple(WIDTHS), [PAIR, HALVES])
    array = np.where(np.arange(COUNT)[:, None] == 7, np.nan, features(OURS, INCEPTION))
    with pytest.raises(CorgiError, match=r"inception features of 1 of 61 .* 'key07'") as refused:
        check_finite({CLIP: features(OURS, CLIP), INCEPTION: array}, np.array(KEYS))
    assert "diverged" in refused.value.remedy


def test_three_pictures_have_no_manifold(tmp_path: Path) -> None:
    few = HeldOut(("0",) * 3, KEYS[:3], ("a caption",) * 3)
    chunks = Chunks(few, (REAL,), 3)
    made = {"keys": np.array(KEYS[:3]), CLIP: features(REAL, CLIP)[:3]}
    store = compute_missing(tmp_path / "features", chunks, {}, lambda shard: made, "made")
    pair, of = Compared(PAIR.theirs, PAIR.theirs), SetFeatures(chunks, store)
    with pytest.raises(CorgiError, match="3 pictures have no 3 nearest neighbours"):
        PictureManifolds.computed(in_this_process, tmp_path, of, (CLIP,), [pair])
