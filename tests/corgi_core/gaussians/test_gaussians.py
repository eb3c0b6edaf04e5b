"""The bank of Gaussians: fitting, choosing, the change of variables, and what it refuses."""

import itertools
import pickle
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from upath import UPath

from corgi_core.config import GaussianSettings
from corgi_core.data.arrays import compute_missing
from corgi_core.data.dataset import write_dataset
from corgi_core.encoders.similarity import mean_encoder_cosine, unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.diagnostics import effective_rank, modality_gap
from corgi_core.gaussians.fit import fit_bank
from corgi_core.gaussians.stream import EmbeddingStream
from corgi_core.mapping import map_here
from tests.helpers.made import samples


def three_cones(per_cone=(400, 300, 200), d=8, seed=0):
    """Points in three narrow cones, their centres and which cone each is in."""
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(random.normal(size=(d, d)))[0][:3] * np.sqrt(d)
    labels = np.repeat(np.arange(3), per_cone)
    points = centres[labels] + 0.15 * random.normal(size=(len(labels), d))
    return points.astype(np.float32), centres, labels


def test_one_gaussian_is_the_mean_and_deviation_of_all_points():
    points, _, _ = three_cones()
    bank, fit = fit_bank(points, k=1, encoder_dims=(8,), settings=GaussianSettings(kappa=2.0))
    np.testing.assert_allclose(bank.means[0].numpy(), points.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bank.std[0].numpy(), 2 * points.std(axis=0), rtol=1e-5)
    assert bank.sizes.tolist() == [len(points)]
    assert (fit.embeddings, fit.kmeans_sample, fit.k, fit.warnings) == (len(points), 0, 1, [])


def test_clusters_are_found_as_sklearn_finds_them():
    points, centres, labels = three_cones()
    bank, fit = fit_bank(points, k=3, encoder_dims=(8,))
    order = np.argmax(centres @ bank.means.numpy().T, axis=1)
    assert sorted(order) == [0, 1, 2]
    assert bank.sizes[order].tolist() == [400, 300, 200]
    assert (fit.kmeans_sample, fit.smallest_cluster) == (768, 200)
    theirs = KMeans(3, n_init=3, random_state=0).fit(points)
    for i, j in enumerate(np.argmax(centres @ theirs.cluster_centers_.T, axis=1)):
        members = points[theirs.labels_ == j]
        assert (labels[theirs.labels_ == j] == i).all()
        np.testing.assert_allclose(bank.means[order[i]].numpy(), members.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(bank.std[order[i]].numpy(), members.std(axis=0), rtol=1e-4)


def test_kmeans_sees_a_sample_and_the_moments_all_points():
    points = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    bank, fit = fit_bank(points, k=2, encoder_dims=(4,))
    assert bank.sizes.sum() == fit.embeddings == 3000
    assert fit.kmeans_sample == 512


def test_k_scales_to_the_data_and_says_so(caplog):
    points = np.random.default_rng(0).normal(size=(330, 4)).astype(np.float32)
    bank, fit = fit_bank(points, k=1024, encoder_dims=(4,))
    assert bank.k == fit.k == 10
    scaled, small = fit.warnings
    assert scaled == (
        "1024 Gaussians were requested; 330 embeddings are enough for 10 of 32 embeddings each"
    )
    assert small.startswith(f"{int((bank.sizes < 32).sum())} of 10 clusters have fewer than 32")
    assert f"the smallest {int(bank.sizes.min())};" in small
    assert caplog.messages == fit.warnings
    assert fit_bank(points[:5], k=3, encoder_dims=(4,))[0].k == 1


def cut(points, sizes):
    """Embeddings in shards of the given sizes, over and over, the last one cut short."""
    ends, counts = itertools.cycle(sizes), []
    while sum(counts) < len(points):
        counts.append(min(next(ends), len(points) - sum(counts)))
    starts = [0, *itertools.accumulate(counts)]
    return EmbeddingStream(tuple(counts), lambda i: points[starts[i] : starts[i] + counts[i]])


@given(
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5),
    k=st.sampled_from([1, 3, 8]),
    offset=st.sampled_from([0.0, 30.0]),
)
@settings(max_examples=20)
def test_a_stream_in_any_chunks_gives_the_moments_of_the_whole(sizes, k, offset):
    points = (three_cones((900, 500, 100))[0] + offset).astype(np.float16)
    bank, fit = fit_bank(cut(points, sizes), k, encoder_dims=(3, 5))
    whole, whole_fit = fit_bank(points, k, encoder_dims=(3, 5))
    assert fit.kmeans_sample == whole_fit.kmeans_sample
    assert torch.equal(bank.sizes, whole.sizes)
    torch.testing.assert_close(bank.means, whole.means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bank.std, whole.std, rtol=1e-5, atol=1e-6)
    if k == 1:
        exact = points.astype(np.float64)
        np.testing.assert_allclose(bank.means[0], exact.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(bank.std[0], exact.std(axis=0), rtol=1e-6)


def test_no_shard_stays_in_memory():
    """One shard is alive while the next is made, and none after."""
    alive = []

    def read(number):
        shard = np.random.default_rng(number).normal(size=(500, 4)).astype(np.float16)
        alive.append(weakref.ref(shard))
        assert sum(ref() is not None for ref in alive) <= 2
        return shard

    bank, _ = fit_bank(EmbeddingStream((500,) * 40, read), k=4, encoder_dims=(4,))
    assert bank.sizes.sum() == 20_000
    assert len(alive) == 81  # for the sample, the origin of the moments, and the moments


def elsewhere(function, common, items, what):
    """What workers do: the last items first, and nothing shared but what can be pickled."""
    results = []
    for item in reversed(items):
        again, given, part = pickle.loads(pickle.dumps((function, common, item)))
        results.append(pickle.loads(pickle.dumps(again(given, part))))
    yield from reversed(results)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A dataset of 67 shards, and 200 embeddings far from 0."""
    folder, random = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
    images = write_dataset(folder / "images", samples(200), shard_size=3)

    def compute(shard):
        keys = images.rows(shard)["key"].to_numpy(str)
        z = (30 + random.normal(size=(len(keys), 8))).astype(np.float16)
        return {"keys": keys, "image": z}

    return images, compute_missing(folder / "store", images, {}, compute, "made")


@pytest.mark.parametrize("k", [1, 3])
def test_any_number_of_workers_gives_the_same_bits(k, stored):
    """Parts that are computed elsewhere are merged in the shards' order."""
    images, store = stored
    training = EmbeddingStream.of_split(images, store, "train")
    every = EmbeddingStream.of_store(store, "image")
    here, there = (
        (
            fit_bank(training, k, encoder_dims=(3, 5), mapped=mapped)[0],
            effective_rank(training, mapped=mapped),
            modality_gap(training, every, (3, 5), mapped),
        )
        for mapped in (map_here, elsewhere)
    )
    assert here[0].digest == there[0].digest
    assert here[1:] == there[1:]
    rows = store.read("image")[store.rows_of(images.keys("train"))].astype(np.float64)
    assert training.count == len(rows) == here[0].sizes.sum()
    if k == 1:
        np.testing.assert_allclose(here[0].means[0], rows.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(here[0].std[0], rows.std(axis=0), rtol=1e-5)


def test_a_sample_is_uniform_whatever_the_chunks():
    points = np.arange(1000, dtype=np.float32)[:, None]
    samples = [
        EmbeddingStream.of_array(points).sample(100, seed, "sampling")[:, 0] for seed in range(400)
    ]
    for sample in samples:
        assert (np.diff(sample) > 0).all()  # in order, none twice
    again = cut(points, [7, 13]).sample(100, 3, "sampling")[:, 0]
    np.testing.assert_array_equal(again, samples[3])
    counts = np.bincount(np.concatenate(samples).astype(int), minlength=1000)
    # Each point is sampled 400 · 0.1 times on average: χ² of 999 degrees of freedom.
    chi = ((counts - 40) ** 2 / (40 * 0.9)).sum()
    assert abs(chi - 999) < 4 * np.sqrt(2 * 999)
    np.testing.assert_array_equal(
        EmbeddingStream.of_array(points).sample(5000, 0, "sampling"), points
    )


def test_a_shard_that_ends_early_is_refused():
    points = np.ones((10, 4), np.float32)
    with pytest.raises(CorgiError, match="10 embeddings where 11"):
        fit_bank(EmbeddingStream((11,), lambda _: points), k=1, encoder_dims=(4,))


def test_an_empty_cluster_has_the_moments_of_all():
    points = np.repeat(np.eye(4, dtype=np.float32), 64, axis=0)[:128]  # two points, three clusters
    bank, fit = fit_bank(points, k=3, encoder_dims=(4,))
    assert sorted(bank.sizes.tolist()) == [0, 64, 64]
    assert fit.smallest_cluster == 0
    empty = int(bank.sizes.argmin())
    np.testing.assert_allclose(bank.means[empty], points.mean(axis=0), atol=1e-6)
    assert bool((bank.std > 0).all())


def test_a_small_cluster_borrows_from_the_pooled_deviation():
    points, _, labels = three_cones(per_cone=(100, 10, 0))
    bank, _ = fit_bank(points, k=2, encoder_dims=(8,))
    small, large = int(bank.sizes.argmin()), int(bank.sizes.argmax())
    assert bank.sizes[[small, large]].tolist() == [10, 100]
    own, other = points[labels == 1].var(axis=0), points[labels == 0].var(axis=0)
    pooled = (10 * own + 100 * other) / 110
    expected = np.sqrt(10 / 32 * own + 22 / 32 * pooled)
    np.testing.assert_allclose(bank.std[small].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(bank.std[large].numpy(), np.sqrt(other), rtol=1e-4)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 5))
def test_unwhiten_inverts_whiten(seed, k):
    random = torch.Generator().manual_seed(seed)
    bank = GaussianBank(
        torch.randn(k, 6, generator=random), 0.1 + torch.rand(k, 6, generator=random),
        torch.ones(k), encoder_dims=(2, 4), kappa=1.0,
    )  # fmt: skip
    z = torch.randn(9, 6, generator=random)
    c = torch.randint(k, (9,), generator=random)
    torch.testing.assert_close(
        bank.gaussians(c).unwhiten(bank.gaussians(c).whiten(z)), z, rtol=1e-4, atol=1e-5
    )


def test_the_standard_bank_changes_nothing():
    bank = GaussianBank.standard((3, 5))
    z = torch.randn(4, 8)
    c = bank.assign(torch.randn(4, 8))
    assert torch.equal(bank.gaussians(c).whiten(z), z)


def test_choice_is_the_largest_blockwise_cosine():
    bank = GaussianBank(
        torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 1.0]]),
        torch.ones(3, 4), torch.ones(3), encoder_dims=(2, 2), kappa=1.0,
    )  # fmt: skip
    # First block points to 0 weakly, the second to 0 and 2; lengths must not matter.
    text = torch.tensor([[0.1, 0.01, 0.0, 5.0], [0.0, 0.1, 9.0, 0.0], [-7.0, 0.0, 0.0, 0.1]])
    assert bank.assign(text).tolist() == [0, 1, 2]


@pytest.mark.parametrize("choice", ["means", "expectation"])
def test_the_choice_is_that_of_brute_force(choice):
    random = torch.Generator().manual_seed(4)
    bank = GaussianBank(
        torch.randn(20, 12, generator=random), 2 * torch.rand(20, 12, generator=random) + 0.01,
        torch.ones(20), encoder_dims=(4, 8), kappa=1.0, choice=choice, choice_samples=500,
    )  # fmt: skip
    text = torch.randn(30, 12, generator=random)
    if choice == "means":
        z = bank.means[:, None]
    else:  # 10,000 other samples of each Gaussian
        noise = torch.randn(20, 10_000, 12, generator=random)
        z = bank.means[:, None] + bank.std[:, None] * noise
    expected = torch.stack(
        [torch.stack([mean_encoder_cosine(y, zs, (4, 8)).mean() for zs in z]) for y in text]
    )
    chosen = bank.assign(text)
    best = expected.max(dim=1).values
    if choice == "means":
        assert torch.equal(chosen, expected.argmax(dim=1))
    else:  # the estimate from 500 samples may take one that is as good
        torch.testing.assert_close(expected[range(30), chosen], best, rtol=0, atol=0.02)
        assert (chosen == expected.argmax(dim=1)).float().mean() > 0.9
        scores = unit_per_encoder(text, (4, 8)) @ bank._directions.T / 2
        torch.testing.assert_close(scores, expected, rtol=0, atol=0.08)  # 4 σ of 500 samples


def test_the_expectation_prefers_the_narrow_gaussian():
    """Two Gaussians of one mean: the means cannot tell them apart, the expectation can."""
    means, deviations = torch.ones(2, 64), torch.tensor([[3.0], [0.1]]).expand(2, 64)
    bank = GaussianBank(means, deviations, torch.ones(2), (64,), 1.0, choice="expectation")
    assert bank.assign(torch.ones(1, 64)).tolist() == [1]
    assert bank.assign(-torch.ones(1, 64)).tolist() == [0]


def test_banks_that_choose_differently_have_different_digests():
    means, ones = torch.eye(3), torch.ones(3, 3)
    banks = [
        GaussianBank(means, ones, torch.ones(3), (3,), 1.0, choice, samples)
        for choice, samples in (("means", 64), ("expectation", 64), ("expectation", 65))
    ]
    digests = [bank.digest for bank in banks]
    assert len(set(digests)) == 3
    for bank, digest in zip(banks, digests, strict=True):
        bank.assign(torch.ones(2, 3))  # what it computes for itself is no part of it
        assert bank.digest == digest
    with pytest.raises(CorgiError, match="cannot be chosen by 'luck'"):
        GaussianBank(means, ones, torch.ones(3), (3,), 1.0, choice="luck")


def test_the_two_ideas_apart():
    points, _, _ = three_cones()
    bank, _ = fit_bank(points, 1, (8,), GaussianSettings(kappa=2.0))
    wider = bank.with_kappa(3.0)
    assert wider.kappa == 3.0
    torch.testing.assert_close(wider.std, bank.std * 1.5)
    assert torch.equal(wider.means, bank.means)
    shifted, scaled = bank.shift_only(), bank.scale_only()
    assert torch.equal(shifted.means, bank.means)
    assert torch.equal(shifted.std, torch.ones(1, 8))
    assert torch.equal(scaled.means, torch.zeros(1, 8))
    assert torch.equal(scaled.std, bank.std)
    with pytest.raises(CorgiError, match="among 3 Gaussians"):
        fit_bank(points, 3, (8,))[0].scale_only()
    unscaled = GaussianBank.standard((3, 5), scaled=False)
    c = torch.zeros(4, dtype=torch.long)
    z = torch.randn(4, 8)
    widths = torch.tensor([3.0] * 3 + [5.0] * 5)
    torch.testing.assert_close(unscaled.gaussians(c).whiten(z), z / widths.sqrt())


def test_a_bank_survives_saving(tmp_path):
    points, _, _ = three_cones()
    bank, _ = fit_bank(points, 3, (3, 5), GaussianSettings(kappa=1.5, choice="expectation"))
    bank.save(UPath(tmp_path / "bank"))
    again = GaussianBank.load(UPath(tmp_path / "bank"))
    assert again.digest == bank.digest
    assert (again.encoder_dims, again.kappa) == ((3, 5), 1.5)
    assert (again.choice, again.choice_samples) == ("expectation", 64)
    assert torch.equal(again.means, bank.means)
    assert torch.equal(again.std, bank.std)


def test_a_tampered_bank_is_refused(tmp_path):
    bank = GaussianBank.standard((4,))
    bank.save(tmp_path / "bank")
    weights = tmp_path / "bank" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorgiError, match="digest"):
        GaussianBank.load(tmp_path / "bank")


@pytest.mark.parametrize(
    ("points", "k", "message"),
    [
        (np.zeros((5, 4), np.float32), 0, "0 Gaussians cannot be fitted to 5 embeddings"),
        (np.zeros((0, 4), np.float32), 2, "2 Gaussians cannot be fitted to 0 embeddings"),
        (np.zeros((99, 3), np.float32), 2, "encoders of widths"),
        (np.zeros((5, 3), np.float32), 1, "do not fit encoders of widths"),
        (np.full((5, 4), np.nan, np.float32), 1, "not finite"),
    ],
)
def test_bad_input_is_refused(points, k, message):
    with pytest.raises(CorgiError, match=message):
        fit_bank(points, k, encoder_dims=(4,))


def test_effective_rank_of_known_spectra():
    random = np.random.default_rng(0)
    ball = random.normal(size=(20_000, 6))
    assert effective_rank(EmbeddingStream.of_array(ball)) == pytest.approx(6, abs=0.05)
    line = random.normal(size=(500, 1)) * np.ones((1, 6))
    assert effective_rank(EmbeddingStream.of_array(line)) == pytest.approx(1, abs=1e-6)


def test_modality_gap_by_hand():
    images = np.array([[2.0, 0.0], [5.0, 0.0]])
    texts = np.array([[0.0, 1.0]])
    assert modality_gap(
        EmbeddingStream.of_array(images), EmbeddingStream.of_array(texts), (2,)
    ) == pytest.approx(np.sqrt(2))
    assert modality_gap(
        EmbeddingStream.of_array(images), EmbeddingStream.of_array(images * 3), (2,)
    ) == pytest.approx(0)
