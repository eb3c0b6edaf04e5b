"""The benchmark of the presets really steps, and what it makes fit is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.preset_steps.child import Request, measure
from benchmarks.preset_steps.tasks import task_of
from benchmarks.presets import measured, table_of
from benchmarks.training_steps import TrainingSteps
from corgi_core.config import load_preset
from corgi_core.config.loading import assigned
from corgi_core.errors import CorgiError
from corgi_core.sizes.models import models_of

SMALL = "emoji-small"


def request_for(model: str, memory: float = 4e9) -> Request:
    return Request(SMALL, ("clip=[RN50/openai]",), model, memory, threads=1)


def test_a_model_steps_in_a_process_of_its_own_and_has_a_row() -> None:
    row = measured(SMALL, ["clip=[RN50/openai]"], "prior", 4.0, threads=1)
    assert (row["model"], row["what"]) == ("prior", "training")
    assert row["computed_bytes"] < row["peak_bytes"] < 4e9
    died = {"preset": SMALL, "model": "decoder pca", "failure": "ended with -9"}
    assert table_of([row, died]).row_count == 2


def test_what_does_not_fit_is_in_bfloat16_or_refused() -> None:
    model = "decoder pca"
    whole = measure(request_for(model))
    assert whole.what == "training"
    less = 0.8e9 + 0.8 * whole.computed_bytes
    assert measure(request_for(model, less)).what == "training, matrices in bfloat16"
    with pytest.raises(CorgiError, match="GB"):
        measure(request_for(model, 0.8e9))


def test_a_stage_is_trained_alone(tmp_path: Path) -> None:
    preset = load_preset(SMALL, [assigned("clip=[RN50/openai]")]).preset
    stages = [model for model in models_of(preset) if model.stage is not None]
    task, training = task_of(preset, stages[1], tmp_path)
    network = task.build()
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for p in stages[1].build().parameters()
    )
    task.prepare(network)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for _ in range(2):
        TrainingSteps(task, training, network).step()
    changed = [bool((a != b).any()) for a, b in zip(before, network.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
