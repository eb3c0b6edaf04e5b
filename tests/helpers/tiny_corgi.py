"""`corgi` with the emoji-small preset cut to a few steps of everything, in one process (no Ray)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.helpers import forked

SMALL_PRESET = """
extends: emoji-small
variants: [baseline, shifted-k1]
data: {limit: 200, twin_cosine: null}
encoders:
  width: 32
  training: &short
    steps: 8
    batch_size: 8
    warmup_steps: 1
    evaluate_every: 8
    checkpoint_every: 8
prior: {width: 32, layers: 1, training: *short}
decoders:
  pca: {components: 64, width: 32, num_steps: 2, training: *short}
  cascade: {num_steps: 2, training: *short}
  gan: {training: *short}
  lafite: {training: *short}
evaluation: {steps: [1], images: 8, grid_rows: 2}
comparison: {images: 6, seeds: [1], grid_rows: 2}
"""
MATERIALISE = """
import os
import sys
import dagster as dg
from orchestration.definitions import build_definitions
from orchestration.resources.instance import open_instance
from orchestration.automation.refresh import Refresh, Step
from orchestration.settings import Settings
settings = Settings.from_environment(os.environ)
repository = build_definitions(settings).get_repository_def()
refresh = Refresh(repository, open_instance(settings), settings)
for title in sys.argv[1:]:
    asset, _, partition = title.partition(":")
    refresh.materialize(Step(dg.AssetKey(asset), partition or None))
"""
Corgi = Callable[..., subprocess.CompletedProcess[str]]


def corgi_in(home: Path, preset: str = SMALL_PRESET, **variables: str) -> Corgi:
    """Runs `corgi WORDS…` in a workspace of its own under `home`."""
    return _run_in(home, forked.CORGI, preset, **variables)


def materialise_in(home: Path, preset: str = SMALL_PRESET) -> Corgi:
    """Materialises assets, each "asset" or "asset:partition", in the workspace under `home`."""
    return _run_in(home, MATERIALISE, preset)


def dagster_in(home: Path, preset: str, workspace: str, **variables: str) -> Corgi:
    """Runs `dagster WORDS…` on the workspace of that name under `home`."""
    dagster_home = str(home / ".corgi" / workspace / "dagster")
    code = forked.module("dagster")
    return _run_in(home, code, preset, DAGSTER_HOME=dagster_home, **variables)


def _run_in(home: Path, code: str, preset: str, **variables: str) -> Corgi:
    config = home / "small.yaml"
    config.write_text(preset, encoding="utf-8")
    environment = os.environ | {
        "CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data"),
        "CORGI_WORKERS": "0", "CORGI_CONFIG": str(config), "COLUMNS": "120", **variables,
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(code, words, environment, home)

    return run
