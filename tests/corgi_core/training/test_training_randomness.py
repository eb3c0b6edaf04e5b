"""Derived randomness: what makes resuming exact and the number of workers irrelevant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corgi_core.training.randomness import HeldOutRandom, StepRandom

WIDE = (3, 4000)  # numbers of a sample; a chunk has eight samples of them


def samples(random: StepRandom) -> list[torch.Tensor]:
    return [
        random.normal(3), random.uniform(), random.integers(1000, 2, 2), random.normal(3),
        random.normal(*WIDE), random.uniform(140_000), random.integers(9, *WIDE),
    ]  # fmt: skip


@given(seed=st.integers(0, 2**31), step=st.integers(0, 10**6), world=st.sampled_from([1, 2, 7, 14]))
@settings(max_examples=10)
def test_workers_make_the_numbers_that_one_makes(seed: int, step: int, world: int) -> None:
    whole = samples(StepRandom(seed, step, 14))
    shares = [samples(StepRandom(seed, step, 14, rank, world)) for rank in range(world)]
    for index, expected in enumerate(whole):
        assert torch.equal(torch.cat([share[index] for share in shares]), expected)
    assert not torch.equal(whole[0], whole[3])


@pytest.mark.parametrize(("world", "rank"), [(1, 0), (2, 1), (7, 3), (56, 20)])
def test_a_worker_makes_its_own_numbers_and_the_rest_of_two_chunks_at_most(
    world: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, normal = [], torch.Tensor.normal_

    def counting(out: torch.Tensor, **options: Any) -> torch.Tensor:
        made.append(out.shape)
        return normal(out, **options)

    monkeypatch.setattr(torch.Tensor, "normal_", counting)
    own = StepRandom(0, 0, 112, rank, world).normal(*WIDE)
    assert len(own) == 112 // world
    assert {size[1:] for size in made} == {WIDE}
    assert sum(size[0] for size in made) <= len(own) + 2 * 7


def test_held_out_samples_have_the_same_numbers_in_every_batch() -> None:
    whole = samples(HeldOutRandom(14, slice(0, 14)))
    parts = [samples(HeldOutRandom(14, rows)) for rows in (slice(0, 5), slice(5, 6), slice(6, 14))]
    for index, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), expected)
    for ours, expected in zip(samples(StepRandom(0, 0, 14)), whole, strict=True):
        assert torch.equal(ours, expected)
    assert HeldOutRandom(14, slice(2, 4), "meta").normal(3).device.type == "meta"


def test_chunks_of_a_call_are_unrelated() -> None:
    """Neither do two chunks have the same numbers, nor the same chunk of two calls."""
    random = StepRandom(0, 0, 64)
    first, second = random.normal(*WIDE), random.normal(*WIDE)
    streams = torch.cat([first.view(8, -1), second.view(8, -1)])
    assert (torch.corrcoef(streams) - torch.eye(16)).abs().max() < 0.04  # 1 / √96,000 is 0.003


def test_numbers_follow_their_distributions_and_differ_by_seed_and_step() -> None:
    random = StepRandom(seed=1, step=2, batch=20_000)
    normal, uniform, integers = random.normal(), random.uniform(), random.integers(10)
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert integers.dtype == torch.long
    assert torch.bincount(integers, minlength=10).float().div(20_000).sub(0.1).abs().max() < 0.01
    for other in (StepRandom(2, 2, 20_000), StepRandom(1, 3, 20_000)):
        correlation = torch.corrcoef(torch.stack([normal, other.normal()]))[0, 1]
        assert abs(correlation) < 0.03
