"""`corgi` with the emoji-small preset cut to a few steps of everything, in one process (no Ray)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SMALL_PRESET = """
from dataclasses import replace
from corgi_core.config import PRESETS
preset = PRESETS["emoji-small"]
def short(part, steps):
    training = replace(part.training, steps=steps, batch_size=16, warmup_steps=1,
                       evaluate_every=steps, checkpoint_every=steps)
    return replace(part, training=training)
PRESETS["emoji-small"] = replace(
    preset, data=replace(preset.data, limit=240), variants=("baseline", "shifted-k1"),
    encoders=short(preset.encoders, 20) if preset.encoders.training else preset.encoders,
    prior=short(preset.prior, 20), decoders=tuple(short(each, 8) for each in preset.decoders),
    evaluation=replace(preset.evaluation, steps=(1,), images=8, grid_rows=2),
    comparison=replace(preset.comparison, images=6, seeds=(0, 1), grid_rows=2),
)
"""
SMALL_CORGI = (
    SMALL_PRESET
    + """
from orchestration.cli.app import app
app()
"""
)
MATERIALISE = (
    SMALL_PRESET
    + """
import sys
import dagster as dg
from orchestration.definitions import defs
from orchestration.resources.instance import open_instance
from orchestration.automation.refresh import Refresh, Step
from orchestration.settings import settings
refresh = Refresh(defs.get_repository_def(), open_instance(settings()))
for title in sys.argv[1:]:
    asset, _, partition = title.partition(":")
    refresh.materialize(Step(dg.AssetKey(asset), partition or None))
"""
)
Corgi = Callable[..., subprocess.CompletedProcess[str]]


def corgi_in(home: Path, **variables: str) -> Corgi:
    """Runs `corgi WORDS…` in a workspace of its own under `home`."""
    return _run_in(home, SMALL_CORGI, **variables)


def materialise_in(home: Path) -> Corgi:
    """Materialises assets, each "asset" or "asset:partition", in the workspace under `home`."""
    return _run_in(home, MATERIALISE)


def _run_in(home: Path, code: str, **variables: str) -> Corgi:
    environment = os.environ | {
        "CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data"),
        "CORGI_WORKERS": "0", "CORGI_PRESET": "emoji-small", "COLUMNS": "120", **variables,
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *words],
            env=environment, cwd=home, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run
