"""Every metric of features names what it cannot use, and says what to do."""

from functools import partial

import numpy as np
import pytest

from corgi_core.errors import CorgiError
from corgi_core.metrics.cmmd import cmmd
from corgi_core.metrics.features import in_their_span
from corgi_core.metrics.frechet import SumsByPart, frechet_by_part
from corgi_core.metrics.kid import kid
from corgi_core.metrics.precision_recall import Manifold, between
from corgi_core.metrics.vendi import vendi


def frechet(real, generated):
    return frechet_by_part(*map(SumsByPart.of, in_their_span([generated, real])))


def manifolds(real, generated):
    return between(Manifold.of(real), Manifold.of(generated))


GOOD = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
TWO_SETS = [kid, cmmd, frechet, manifolds]
OF_ONE_SET = {
    "empty": (GOOD[:0], "set of pictures is empty"),
    "broken": (np.where(np.arange(20)[:, None] == 7, np.nan, GOOD), "of 1 of 20 .* number 7"),
    "of no width": (GOOD[:, :0], r"not \[pictures, width\]"),
}


@pytest.mark.parametrize("case", OF_ONE_SET)
@pytest.mark.parametrize("metric", [*TWO_SETS, lambda _, features: vendi(features)])
def test_a_set_is_refused(metric, case):
    features, message = OF_ONE_SET[case]
    with pytest.raises(CorgiError, match=message) as refused:
        metric(GOOD, features)
    assert refused.value.remedy


@pytest.mark.parametrize("metric", TWO_SETS)
def test_features_of_another_width_are_of_another_extractor(metric):
    with pytest.raises(CorgiError, match="different extractors"):
        metric(GOOD, GOOD[:, :5])


@pytest.mark.parametrize(("metric", "few"), [(kid, 1), (cmmd, 1), (frechet, 1), (manifolds, 5)])
def test_too_few_pictures_are_refused_and_one_more_is_enough(metric, few):
    found = partial(metric, GOOD)
    with pytest.raises(CorgiError, match=f"^{few} pictures"):
        found(GOOD[:few])
    assert np.isfinite(found(GOOD[: few + 1])[0])
