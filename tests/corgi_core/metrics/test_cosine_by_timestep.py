"""Cosines along a prior's sampling, against the sample itself and a known prediction."""

import pytest
import torch

from corgi_core.encoders.similarity import cosine_by_encoder
from corgi_core.metrics.cosine_by_timestep import CosineByTimestep
from tests.helpers.tiny_pipeline import BLOCKS, tiny_pipeline


def test_the_last_prediction_is_the_sample_whatever_the_chunks(monkeypatch):
    monkeypatch.setattr("corgi_core.prior.model.CAPTIONS_AT_ONCE", 2)
    pipeline, captions = tiny_pipeline(), ["a", "red apple", "two", "cats", "no"]
    tokens, mask = pipeline.tokens.encode(captions)
    text = pipeline.clip.encode_texts(captions)
    true = torch.randn(5, sum(BLOCKS), generator=torch.Generator().manual_seed(0))
    curve = CosineByTimestep(true, BLOCKS)
    z = pipeline.prior.sample(tokens, mask, text, num_steps=4, callback=curve)
    expected = cosine_by_encoder(z, true, BLOCKS).mean(dim=0)
    assert len(curve.by_encoder) == 4
    assert list(curve.by_encoder) == sorted(curve.by_encoder, reverse=True)
    last = min(curve.by_encoder)
    assert curve.by_encoder[last] == pytest.approx(expected.tolist(), abs=1e-5)
    assert curve.averaged[last] == pytest.approx(float(expected.mean()), abs=1e-5)


def test_predictions_that_turn_to_the_truth_rise_from_0_to_1():
    true, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    curve = CosineByTimestep(true, (2,))
    for t, share in ((0, 1.0), (999, 0.0), (500, 0.5)):
        curve(t, true, share * true + (1 - share) * other)
    assert list(curve.averaged) == [999, 500, 0]
    assert list(curve.averaged.values()) == pytest.approx([0, 0.5**0.5, 1])
