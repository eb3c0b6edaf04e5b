"""The benchmark of decoding measures every kind of decoder of a preset."""

from __future__ import annotations

import json
import os
from pathlib import Path

from corgi_core.config import preset_named
from tests.helpers import forked

REPOSITORY = Path(__file__).parents[2]


def test_command_measures_every_kind(tmp_path: Path) -> None:
    words = [
        "--preset", "emoji-small", "--batch", "4", "--rounds", "2", "--threads", "1",
        "--json", str(tmp_path / "rows.json"),
    ]  # fmt: skip
    done = forked.run(forked.module("benchmarks.decoding"), words, os.environ, REPOSITORY)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    decoders = preset_named("emoji-small").decoders
    assert [row["kind"] for row in rows] == [settings.kind for settings in decoders]
    for row in rows:
        assert 0 < row["seconds_alone"] <= row["slowest_alone"]
        assert row["per_second"] > 0
    assert "one image" in done.stdout
