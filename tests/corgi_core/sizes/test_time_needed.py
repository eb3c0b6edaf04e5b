"""Time is operations over a rate."""

from __future__ import annotations

import pytest

from corgi_core.sizes import GPU_RATE, ModelSize, time_needed

SIZE = ModelSize("prior", parameters=1, samples=4096, steps=86_400, flops=8 * 10**15, gpus=8)


def test_a_step_of_a_second_takes_a_day_of_86_400() -> None:
    found = time_needed(SIZE, gpu_rate=1e15)
    assert found.days == pytest.approx(1)
    assert found.samples_per_second == pytest.approx(4096)


def test_half_the_rate_takes_twice_as_long() -> None:
    found = time_needed(SIZE, gpu_rate=5e14)
    assert found.days == pytest.approx(2)
    assert found.samples_per_second == pytest.approx(2048)


def test_the_default_is_an_h100_at_forty_percent() -> None:
    assert pytest.approx(0.4 * 989e12, rel=0.02) == GPU_RATE
    assert time_needed(SIZE) == time_needed(SIZE, GPU_RATE)
