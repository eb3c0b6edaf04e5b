"""The tables of `corgi config check` are readable in a terminal of 80 columns."""

from __future__ import annotations

from rich.console import Console

from corgi_core.sizes import ModelSize
from orchestration.cli.size_tables import memory_table, notes, time_table

LARGE = ModelSize(
    "text encoder google-t5/t5-11b", 4_864_791_552, trained=4_864_791_552,
    weights=4 * 4_864_791_552, samples=4096, microbatch=64, steps=1_000_000, flops=2 * 10**15,
    activations=12 * 2**30, workers=64, gpus=64,
)  # fmt: skip


def test_names_are_wrapped_and_numbers_stay_whole() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(memory_table([LARGE]), time_table([LARGE], 4e14))
    output = captured.get()
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 80
    # 2e15 operations of a step at 64 · 4e14 a second: 0.078125 s for 4,096 samples.
    for number in ("4,864,791,552", "18.12", "4,096", "1,000,000", "52,429", "0.904"):
        assert number in output, output


def test_a_text_encoder_beside_the_prior_adds_to_its_memory_and_days() -> None:
    a_day = {"samples": 1, "steps": 86_400, "flops": 10**12, "trainings": 4}
    prior = ModelSize("prior", 1, trained=1, weights=2**30, activations=5 * 2**30, **a_day)
    reader = ModelSize(
        "prior's text encoder", 1, weights=2**31, activations=6 * 2**30, beside="prior", **a_day
    )
    lines = [*notes([prior, reader], 1e12)]
    assert "The prior and its text encoder together: 9.00 GiB of a GPU, 2 days." in lines
    assert lines[-1] == "corgi run trains 4 × prior: 8 days."
