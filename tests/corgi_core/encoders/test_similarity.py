"""Similarity per block, against what the definition says when written out row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corgi_core.encoders.similarity import (
    cosine_by_encoder,
    mean_encoder_cosine,
    recall_at,
    scale_per_encoder,
)
from corgi_core.errors import CorgiError

BLOCKS = (3, 5, 2)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    parts = zip(
        np.split(a, np.cumsum(BLOCKS)[:-1]), np.split(b, np.cumsum(BLOCKS)[:-1]), strict=True
    )
    return float(np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in parts]))


@given(st.integers(0, 10_000))
def test_cosine_is_the_mean_of_the_blocks_cosines(seed: int) -> None:
    a, b = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [_cosine(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(mean_encoder_cosine(a, b, BLOCKS).numpy(), expected, atol=1e-12)


def test_a_block_of_long_vectors_does_not_decide() -> None:
    a, b = torch.randn(2, 6, 10)
    louder = torch.cat([1000 * a[:, :3], a[:, 3:]], dim=1)
    torch.testing.assert_close(
        mean_encoder_cosine(louder, b, BLOCKS), mean_encoder_cosine(a, b, BLOCKS)
    )


def test_broadcasting_gives_all_pairs() -> None:
    a, b = torch.randn(4, 10), torch.randn(7, 10)
    pairs = mean_encoder_cosine(a.unsqueeze(1), b, BLOCKS)
    assert pairs.shape == (4, 7)
    torch.testing.assert_close(pairs[2, 5], mean_encoder_cosine(a[2], b[5], BLOCKS))
    assert cosine_by_encoder(a, a, BLOCKS).shape == (4, 3)


def test_scaled_blocks_have_unit_mean_square_and_keep_their_direction() -> None:
    z = torch.randn(5, 10) * 37
    scaled = scale_per_encoder(z, BLOCKS)
    for block, width in zip(scaled.split(BLOCKS, dim=1), BLOCKS, strict=True):
        torch.testing.assert_close(block.pow(2).mean(dim=1), torch.ones(5))
        assert block.shape[1] == width
    torch.testing.assert_close(cosine_by_encoder(scaled, z, BLOCKS), torch.ones(5, 3))


@given(st.integers(0, 10_000))
def test_recall_agrees_with_sorting_every_row(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    text, images = torch.randn(2, 12, 10, generator=generator, dtype=torch.float64)
    found = {1: 0, 5: 0}
    for i, query in enumerate(text.numpy()):
        order = np.argsort([-_cosine(query, image) for image in images.numpy()])
        for rank in found:
            found[rank] += i in order[:rank]
    recalls = recall_at(text, images, (1, 5), BLOCKS)
    assert recalls == pytest.approx({rank: count / 12 for rank, count in found.items()})


def test_collapsed_embeddings_recall_nothing() -> None:
    assert recall_at(torch.ones(9, 10), torch.ones(9, 10), (1, 5), BLOCKS) == {1: 0.0, 5: 0.0}


def test_the_captions_of_one_image_are_no_rivals() -> None:
    images, own = torch.eye(10)[:6], torch.tensor([3, 0, 3, 3, 5])
    assert recall_at(images[own], images, (1, 5), (10,), own) == {1: 1.0, 5: 1.0}
    assert recall_at(images[own], images, (1,), (10,), own.roll(1)) == {1: 1 / 5}


def test_a_wrong_width_is_named() -> None:
    with pytest.raises(CorgiError, match=r"11 wide.*\(3, 5, 2\)"):
        mean_encoder_cosine(torch.ones(2, 11), torch.ones(2, 11), BLOCKS)
    with pytest.raises(CorgiError, match="do not match"):
        recall_at(torch.ones(2, 10), torch.ones(3, 10), (1,), BLOCKS)
