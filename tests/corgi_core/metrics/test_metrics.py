"""The Fréchet distance against its closed form and an independent implementation."""

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from corgi_core.errors import CorgiError
from corgi_core.metrics.frechet import (
    FeatureStatistics,
    FeatureSums,
    SumsByPart,
    bias_of_two,
    frechet_by_part,
    frechet_distance,
)
from corgi_core.metrics.inception import InceptionFeatures


def test_closed_form_for_commuting_covariances():
    mean_a, mean_b = np.array([0.0, 1.0]), np.array([2.0, 1.0])
    a = FeatureStatistics(mean_a, np.diag([1.0, 4.0]))
    b = FeatureStatistics(mean_b, np.diag([9.0, 0.25]))
    assert frechet_distance(a, b) == pytest.approx(4 + (1 - 3) ** 2 + (2 - 0.5) ** 2)


def test_agrees_with_the_matrix_square_root():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 12)) @ random.normal(size=(12, 12))
    y = random.normal(size=(200, 12)) @ random.normal(size=(12, 12)) + 0.5
    a, b = FeatureStatistics.of(x), FeatureStatistics.of(y)
    root = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    expected = gap + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_agrees_with_torchmetrics_on_the_same_features():
    from torchmetrics.image.fid import _compute_fid

    random = np.random.default_rng(1)
    x, y = random.normal(size=(500, 16)), random.normal(size=(400, 16)) * 1.3 + 0.2
    a, b = FeatureStatistics.of(x), FeatureStatistics.of(y)
    theirs = _compute_fid(
        *(torch.from_numpy(v) for v in (a.mean, a.covariance, b.mean, b.covariance))
    )
    assert frechet_distance(a, b) == pytest.approx(theirs.item(), rel=1e-6)


def test_singular_covariances_are_no_trouble():
    few = np.random.default_rng(2).normal(size=(5, 64))
    a = FeatureStatistics.of(few)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_few_features_of_a_wide_extractor_agree_with_the_singular_values_of_their_products():
    """tr (Σ_a Σ_b)^½ is also the sum of the singular values of the product of centred features."""
    x, y = np.random.default_rng(8).normal(size=(2, 20, 90))
    a, b = FeatureStatistics.of(x), FeatureStatistics.of(y[:9])
    left, right = x - x.mean(axis=0), y[:9] - y[:9].mean(axis=0)
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum() / (19 * 8) ** 0.5
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    expected = np.square(a.mean - b.mean).sum() + traces - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("count", "width"), [(400, 10), (64, 40), (32, 90)])
@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.0), (2.0, 1.0)])
def test_the_bias_is_what_samples_have_and_distributions_have_not(count, width, scale, expected):
    """Of normal distributions the distance is known: here (scale − 1)² for each feature."""
    random = np.random.default_rng(9)
    found = list[tuple[float, float]]()
    for _ in range(12):
        a = SumsByPart.of(random.normal(size=(count, width)))
        b = SumsByPart.of(scale * random.normal(size=(count, width)))
        value = frechet_distance(a.whole.statistics, b.whole.statistics)
        found.append((value, bias_of_two(a.bias, b.bias)))
    values, biases = np.array(found).T
    bias = values.mean() - expected * width
    assert biases.mean() == pytest.approx(bias, rel=0.35)


def test_the_parts_have_all_features_once_and_make_the_whole_and_its_halves():
    features = np.random.default_rng(10).normal(size=(41, 6))
    sums = SumsByPart.of(features)
    assert sorted(each.count for each in sums.parts) == [5] * 7 + [6]
    np.testing.assert_allclose(sums.whole.mean, features.mean(axis=0), atol=1e-13)
    np.testing.assert_allclose(sums.whole.statistics.covariance, np.cov(features.T), atol=1e-12)
    second = features.T @ features / 41
    np.testing.assert_allclose(sums.whole.second_moment, second, atol=1e-12)
    order = np.random.default_rng(0).permutation(41)
    for half, rows in zip(sums.halves, (order[:20], order[20:]), strict=True):
        np.testing.assert_allclose(
            half.whole.statistics.covariance, np.cov(features[rows].T), atol=1e-12
        )


def test_few_features_have_a_distance_and_no_bias_and_equal_ones_none_of_both():
    features = np.random.default_rng(11).normal(size=(8, 3))
    few, enough, equal = (SumsByPart.of(each) for each in (features[:7], features, features * 0))
    assert frechet_by_part(few, enough)[0] > 0
    assert few.bias is None
    assert bias_of_two(few.bias, enough.bias) is bias_of_two(enough.bias, few.bias) is None
    assert bias_of_two(enough.bias, 4 * enough.bias) == pytest.approx(2 * enough.bias)
    assert enough.bias > 0
    assert equal.bias == frechet_by_part(equal, equal).max() == 0


def chunked(features, ends):
    """The sums of a set that is read in chunks, merged in their order."""
    total = len(features)
    chunks = np.split(np.arange(total), ends)
    return reduce(
        add, [SumsByPart.of_rows(rows, total, features[rows].__getitem__) for rows in chunks]
    )


def test_chunks_have_the_statistics_of_the_whole_however_they_are_cut():
    """Far from the origin, where sums of squares would lose all digits of the covariance."""
    random = np.random.default_rng(3)
    features = (1e3 + random.normal(size=(1000, 24))).astype(np.float32)
    whole = SumsByPart.of(features)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    for found in (whole, chunked(features, [1, 300, 813]), chunked(features, [999])):
        assert [each.count for each in found.parts] == [each.count for each in whole.parts]
        mean = features.mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(found.whole.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(found.whole.statistics.covariance, expected, atol=1e-12)
        assert found.bias == pytest.approx(whole.bias, rel=1e-9)


def test_stored_sums_are_those_again_bit_for_bit():
    features = np.random.default_rng(5).normal(size=(50, 7))
    sums = chunked(features, [3, 20])
    again = SumsByPart.of_arrays({name: np.array(a) for name, a in sums.arrays.items()})
    assert again.arrays["scatter"].shape == (8, 28)
    for ours, theirs in zip(again.parts, sums.parts, strict=True):
        assert ours.count == theirs.count
        assert ours.mean.tobytes() == theirs.mean.tobytes()
    assert again.whole.scatter.tobytes() == sums.whole.scatter.tobytes()
    assert again.bias == sums.bias


def test_sums_add_up_in_any_grouping_and_of_one_width_only():
    random = np.random.default_rng(4)
    a, b, c = (random.normal(size=(n, 5)) for n in (3, 1, 7))
    sums = [FeatureSums.of(part) for part in (a, b, c)]
    expected = np.cov(np.concatenate([a, b, c]), rowvar=False)
    nothing = FeatureSums.of_none(5)
    for found in (sums[0] + (sums[1] + sums[2]), nothing + sums[0] + sums[1] + nothing + sums[2]):
        np.testing.assert_allclose(found.statistics.covariance, expected, atol=1e-14)
    with pytest.raises(CorgiError, match="different extractors"):
        sums[0] + FeatureSums.of(b[:, :4])


def test_bad_features_are_refused():
    with pytest.raises(CorgiError, match="two images"):
        FeatureStatistics.of(np.zeros((1, 4)))
    with pytest.raises(CorgiError, match="two images"):
        _ = FeatureSums.of_none(4).statistics
    with pytest.raises(CorgiError, match="not finite"):
        FeatureStatistics.of(np.full((3, 4), np.inf))


class Pooling(torch.nn.Module):
    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8
        pooled = images.float().mean(dim=(2, 3))
        return pooled if return_features else -pooled


def test_inception_runs_any_torchscript_of_its_form(tmp_path):
    torch.jit.script(Pooling()).save(str(tmp_path / "net.pt"))
    features = InceptionFeatures(str(tmp_path / "net.pt"))
    images = torch.rand(70, 3, 9, 9)
    expected = (images * 255).round().mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(features(images), expected, rtol=1e-4)
    assert len(features.digest) == 16


def test_inception_refuses_what_it_cannot_read(tmp_path):
    with pytest.raises(CorgiError, match="no Inception weights"):
        InceptionFeatures(str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CorgiError, match="no TorchScript"):
        InceptionFeatures(str(tmp_path / "text.pt"))
