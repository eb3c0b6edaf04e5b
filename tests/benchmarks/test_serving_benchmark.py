"""The benchmark of serving measures one client and many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.serving import main

pytestmark = pytest.mark.unit


def test_it_measures_one_client_and_many(pipeline, tmp_path: Path, capsys) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    rows = tmp_path / "rows.json"
    main(
        str(tmp_path / "saved"),
        tmp_path,
        clients=4,
        pictures=1,
        rounds=1,
        threads=torch.get_num_threads(),
        json=rows,
    )
    one, many = json.loads(rows.read_text())
    assert (one["clients"], many["clients"]) == (1, 4)
    assert one["times"] == 1
    assert many["times"] == pytest.approx(many["per_second"] / one["per_second"])
    assert one["seconds"] > 0
    assert "clients at once" in capsys.readouterr().out
