"""The prior of the preset `paper`, beside diffusers' PriorTransformer, which needs diffusers.

Both are run as `benchmarks.prior` runs them: in training ours has four noise samples a caption,
the other one. The tokens are as wide as the network, as diffusers' class wants them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu_cases.case import Case, Sizes, System
from benchmarks.prior_systems import system
from benchmarks.prior_systems.child import Work
from benchmarks.prior_systems.corgi import Corgi
from corgi_core.config import preset_named

PRESET = preset_named("paper")
PAPER = system.Case(
    "sampling", dim=1536, batch=64, text_tokens=PRESET.encoders.text_tokens,
    text_width=PRESET.prior.width, width=PRESET.prior.width, layers=PRESET.prior.layers,
    heads=PRESET.prior.heads, steps=PRESET.prior.num_steps, noise_samples=4, precision="bf16",
)  # fmt: skip
SMALL = replace(
    PAPER, dim=32, batch=2, text_tokens=4, text_width=32, width=32, layers=1, heads=2, steps=4,
    precision="fp32",
)  # fmt: skip


def cases(sizes: Sizes) -> Iterator[Case]:
    """Sampling in 64 guided steps; a training step of four noise samples a caption."""
    peer = importlib.util.find_spec("diffusers") is not None
    for task in ("sampling", "training"):
        chosen = replace(SMALL if sizes.small else PAPER, task=task, device=str(sizes.device))
        yield Case(
            f"prior: {task}", "captions", chosen.batch, chosen.precision,
            _system("corgi", chosen), _system("diffusers", chosen) if peer else None,
        )  # fmt: skip


def _system(name: str, case: system.Case) -> System:
    if name == "corgi":
        return System(name, Work(Corgi, case).measure, case.batch)
    from benchmarks.prior_systems.diffusers_prior import Diffusers

    return System(name, Work(Diffusers, case).measure, case.batch)
