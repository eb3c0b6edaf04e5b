"""The Python snippet of README.md runs as pasted, where the workspace "emoji" is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from corgi_core import CorgiPipeline
from tests.helpers.tiny_pipeline import SIDE, register

pytestmark = pytest.mark.unit
README = Path(__file__).parents[2] / "README.md"


def test_the_snippet_of_the_readme_runs(
    pipeline: CorgiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    assert found
    register(pipeline, tmp_path / ".corgi", "emoji")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(found[1], "README.md", "exec"), names)
    assert len(names["steps"]) == 8  # type: ignore[arg-type]
    assert Image.open("apple.png").size == (SIDE, SIDE)
    saved = CorgiPipeline.from_pretrained("emoji-pipeline")
    assert saved.decoder.digest == pipeline.decoder.digest
