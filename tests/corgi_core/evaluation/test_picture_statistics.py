"""Statistics over stored features: those of the whole sets, whoever computes them, cut as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from corgi_core.evaluation.picture_sets import Compared, PictureSet
from corgi_core.evaluation.picture_statistics import PictureStatistics
from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.features import unit_rows
from corgi_core.metrics.frechet import SumsByPart, frechet_distance
from corgi_core.metrics.kid import kid
from corgi_core.metrics.precision_recall import Manifold, inside
from corgi_core.metrics.vendi import vendi, vendi_of_moment
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


def statistics(folder: Path, size: int = 11, run: Run = in_this_process) -> PictureStatistics:
    chunks, store = stored(folder / f"features-{size}", size)
    return PictureStatistics.computed(
        run, folder / "statistics", chunks, store, tuple(WIDTHS), [PAIR, HALVES]
    )


def by_two_workers(job: ArrayJob, folder: Path) -> ArrayStore:
    """As `Compute.arrays` has it: workers that share the shards, which finish in another order."""
    missing = missing_shards(folder, job.images, job.spec)
    workers = [job.opened("cpu", threads) for threads in (1, 2)]
    for number, shard in enumerate(reversed(missing)):
        write_shard(folder, shard, workers[number % 2](shard.name))
    return finished_store(folder, job.images, job.spec, missing)


def bits(found: PictureStatistics) -> list[bytes]:
    """All that the scores are computed from."""
    sums = [
        array.tobytes()
        for extractor in WIDTHS
        for each in (PAIR.ours, PAIR.theirs)
        for array in found.sums_of(each, extractor).arrays.values()
    ]
    kernels = [
        np.array(found.kernel_distance(pair, extractor)).tobytes()
        for extractor in WIDTHS
        for pair in (PAIR, HALVES)
    ]
    insides = [a.tobytes() for pair in (PAIR, HALVES) for a in found.inside(pair).values()]
    return sums + kernels + insides


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PictureStatistics:
    return statistics(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("size", [11, 5, 200])
def test_two_workers_and_other_chunks_of_features_give_the_same_bits(
    whole: PictureStatistics, tmp_path: Path, size: int
) -> None:
    assert bits(statistics(tmp_path, size, by_two_workers)) == bits(whole)


def test_other_chunks_of_sums_differ_by_their_rounding_alone(
    whole: PictureStatistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corgi_core.evaluation.picture_statistics.SUMMED_AT_ONCE", 7)
    cut = statistics(tmp_path)
    assert len(cut.sums.shards) == 2 * 9
    for extractor in WIDTHS:
        ours, theirs = (each.sums_of(PAIR.ours, extractor) for each in (cut, whole))
        np.testing.assert_allclose(
            ours.statistics.covariance, theirs.statistics.covariance, rtol=1e-12, atol=1e-14
        )
        assert ours.bias == pytest.approx(theirs.bias, rel=1e-9)


def test_a_picture_less_deals_all_others_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chunks have the pictures that they had; their stored sums are of other parts."""
    monkeypatch.setattr("corgi_core.evaluation.picture_statistics.SUMMED_AT_ONCE", 7)
    statistics(tmp_path)
    monkeypatch.setattr(f"{__name__}.CAPTIONS", CAPTIONS.taken(np.arange(COUNT - 1)))
    found = statistics(tmp_path, size=12).sums_of(PAIR.ours, INCEPTION)
    expected = SumsByPart.of(features(OURS, INCEPTION)[:-1])
    for ours, theirs in zip(found.parts, expected.parts, strict=True):
        np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-12)


def test_they_are_the_metrics_of_the_whole_sets(whole: PictureStatistics) -> None:
    real, ours = (features(case, INCEPTION) for case in (REAL, OURS))
    for each, array in ((PAIR.theirs, real), (PAIR.ours, ours)):
        found = whole.sums_of(each, INCEPTION)
        np.testing.assert_allclose(
            found.statistics.covariance, np.cov(array.astype(float).T), atol=1e-12
        )
        assert found.bias == pytest.approx(SumsByPart.of(array).bias, rel=1e-9)
    assert whole.kernel_distance(PAIR, INCEPTION).mean() == pytest.approx(kid(real, ours).value)
    expected = inside(Manifold.of(real), Manifold.of(ours)).by_feature
    found = whole.inside(PAIR)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_clip_features_are_of_norm_1(whole: PictureStatistics) -> None:
    real, ours = (features(case, CLIP) for case in (REAL, OURS))
    assert whole.kernel_distance(PAIR, CLIP).mean() == pytest.approx(
        cmmd(real, ours).value, rel=1e-4, abs=1e-5
    )
    sums = whole.sums_of(PAIR.ours, CLIP)
    expected = np.cov(unit_rows(ours).T)
    np.testing.assert_allclose(sums.statistics.covariance, expected, atol=1e-7)
    assert vendi_of_moment(sums.whole.second_moment) == pytest.approx(vendi(ours), rel=1e-6)


def test_the_halves_share_no_picture_and_have_all_but_an_odd_one(whole: PictureStatistics) -> None:
    half, other = (each.rows(COUNT) for each in (HALVES.ours, HALVES.theirs))
    assert len(half) == len(other) == COUNT // 2
    assert not {*half.tolist()} & {*other.tolist()}
    real = features(REAL, INCEPTION)
    a, b = (whole.sums_of(each, INCEPTION) for each in (HALVES.ours, HALVES.theirs))
    np.testing.assert_allclose(a.whole.mean, real[half].mean(axis=0, dtype=float), atol=1e-12)
    assert (a.whole.count, b.whole.count) == (30, 31)
    found = whole.kernel_distance(HALVES, INCEPTION).mean()
    assert found == pytest.approx(kid(real[other], real[half]).value)
    odd = np.setdiff1d(np.arange(COUNT), [*half, *other])
    expected = frechet(real[half], real[[*other, *odd]])  # the odd one is in the sums
    assert frechet_distance(a.statistics, b.statistics) == pytest.approx(expected, rel=1e-4)


def test_what_was_killed_goes_on_and_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    """The real images' statistics serve the next model."""
    computed = dict[str, int]()

    def counting(job: ArrayJob, folder: Path) -> ArrayStore:
        store = in_this_process(job, folder)
        computed[folder.name] = store.recomputed
        return store

    chunks, store = stored(tmp_path / "features", 11)

    def of(*pairs: Compared) -> PictureStatistics:
        return PictureStatistics.computed(
            counting, tmp_path / "statistics", chunks, store, tuple(WIDTHS), pairs
        )

    of(HALVES, Compared(PAIR.theirs, PAIR.theirs))
    assert computed == {"balls": 3, "sums": 1, "kernel_parts": 2, "inside": 2}
    of(HALVES, Compared(PAIR.theirs, PAIR.theirs), PAIR)
    assert computed == {"balls": 1, "sums": 1, "kernel_parts": 1, "inside": 1}
    torn = next((tmp_path / "statistics" / "sums").glob(f"{OURS.digest}*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-1])
    of(HALVES, Compared(PAIR.theirs, PAIR.theirs), PAIR)
    assert computed == {"balls": 0, "sums": 1, "kernel_parts": 0, "inside": 0}


def test_statistics_of_other_features_are_stale_and_computed_again(tmp_path: Path) -> None:
    """By what the features are of: another extractor, another version of the data."""
    statistics(tmp_path)
    chunks, store = stored(tmp_path / "others", 11, spoilt=0.0)
    found = PictureStatistics.computed(
        in_this_process, tmp_path / "statistics", chunks, store, tuple(WIDTHS), [PAIR, HALVES]
    )
    assert found.sums.recomputed == 2
    mean = found.sums_of(PAIR.ours, INCEPTION).whole.mean
    changed = features(OURS, INCEPTION)
    changed[7] = 0
    np.testing.assert_allclose(mean, changed.mean(axis=0, dtype=float), atol=1e-12)


def test_features_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    chunks, store = stored(tmp_path / "features", 11, spoilt=np.nan)
    with pytest.raises(CorgiError, match="are not finite"):
        PictureStatistics.computed(
            in_this_process, tmp_path, chunks, store, tuple(WIDTHS), [PAIR, HALVES]
        )
    array = np.where(np.arange(COUNT)[:, None] == 7, np.nan, features(OURS, INCEPTION))
    with pytest.raises(CorgiError, match=r"inception features of 1 of 61 .* 'key07'") as refused:
        check_finite({CLIP: features(OURS, CLIP), INCEPTION: array}, np.array(KEYS))
    assert "diverged" in refused.value.remedy


def test_three_pictures_have_no_manifold(tmp_path: Path) -> None:
    few = HeldOut(("0",) * 3, KEYS[:3], ("a caption",) * 3)
    chunks = Chunks(few, (REAL,), 3)
    made = {"keys": np.array(KEYS[:3]), CLIP: features(REAL, CLIP)[:3]}
    store = compute_missing(tmp_path / "features", chunks, {}, lambda shard: made, "made")
    pair = Compared(PAIR.theirs, PAIR.theirs)
    with pytest.raises(CorgiError, match="3 pictures have no 3 nearest neighbours"):
        PictureStatistics.computed(in_this_process, tmp_path, chunks, store, (CLIP,), [pair])
