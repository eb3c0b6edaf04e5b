"""Pictures that are sampled in a batch of many requests are those of CorgiPipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.generation import Request
from corgi_core.serving.pictures import OrderedPicture, sample_pictures
from tests.helpers.tiny_pipeline import BLOCKS, png

ROUNDING = 1e-4
REQUESTS = [
    Request.of_files(["a red apple"], [], [], num_images=3, seed=5),
    Request.of_files(["a car"], [], [], seed=6),
    Request.of_files(["a red apple", "a car"], [], [], num_images=4, seed=7),
    Request.of_files([], ["a"], [png(1)], num_images=2, seed=5),
    Request.of_files([], ["a", "b"], [png(1), png(2)], num_images=3, seed=5),
    Request.of_files(["a crown"], ["a"], [png(2)], num_images=2, weight=0.4, seed=9),
    Request.of_files(["a cat", "a dog"], ["a"], [png(3)], num_images=1, seed=9),
    Request.of_files(["a cat", "a dog"], ["a"], [png(3)], num_images=3, seed=9),
]


def ordered(*requests: Request, **options: int) -> list[OrderedPicture]:
    return [OrderedPicture(r, i, **options) for r in requests for i in range(r.num_images)]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_each_request_has_the_pictures_of_the_pipeline(pipeline, request_: Request) -> None:
    expected = request_.sample(pipeline).numpy()
    found = sample_pictures(pipeline, ordered(request_))
    np.testing.assert_allclose([each.pixels for each in found], expected, atol=ROUNDING)


def test_requests_of_several_seeds_share_a_batch(pipeline) -> None:
    with_a_caption = [each for each in REQUESTS if len(each.captions) == 1]
    expected = torch.cat([each.sample(pipeline) for each in with_a_caption]).numpy()
    several = ordered(*with_a_caption)
    assert len({each.key for each in several}) == 1
    found = sample_pictures(pipeline, several)
    np.testing.assert_allclose([each.pixels for each in found], expected, atol=ROUNDING)


def test_captions_start_from_the_gaussian_that_they_choose_or_that_is_given(
    pipeline, monkeypatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(4, sum(BLOCKS), generator=generator)
    bank = GaussianBank(means, torch.ones_like(means), torch.ones(4), BLOCKS, kappa=1.0)
    monkeypatch.setattr(pipeline.prior, "bank", bank)
    request = REQUESTS[1]
    chosen = int(bank.assign(pipeline.clip.encode_texts(list(request.captions))))
    monkeypatch.setattr(pipeline.prior, "sample", lambda *_, gaussians, **__: bank.means[gaussians])
    points = {}
    monkeypatch.setattr(
        type(pipeline.decoder), "decode",
        lambda self, z, *_, **__: points.update(z=z) or torch.zeros(len(z), 3, 2, 2),
    )  # fmt: skip
    for given in (None, (chosen + 1) % 4):
        (picture,) = sample_pictures(pipeline, ordered(request, gaussian=given))
        expected = chosen if given is None else given
        assert picture.gaussians == (expected,)
        assert torch.equal(points["z"][0], means[expected])
    with pytest.raises(CorgiError, match="no Gaussian 4: this prior has 4, from 0"):
        sample_pictures(pipeline, ordered(request, gaussian=4))
