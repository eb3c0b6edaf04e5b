"""The snippets of docs/ run as they are, and settings.md lists what there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from corgi_core.config import PRESETS
from orchestration.settings import Settings, Variables
from tests.helpers import forked

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if SNIPPET.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_snippets_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """All of one page in one program, one after the other."""
    program = "\n".join(SNIPPET.findall(page.read_text(encoding="utf-8")))
    done = forked.run(program, [], os.environ, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_settings_file_on_the_page_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    assert block
    (tmp_path / "my.yaml").write_text(block[1], encoding="utf-8")
    settings = Settings.load({}, config=tmp_path / "my.yaml")
    assert settings.preset.name == "stickers"
    assert settings.preset.prior.training.steps == 4000
    assert [decoder.kind for decoder in settings.preset.decoders] == ["pca", "cascade"]


def test_every_variable_that_settings_list_is_read_and_every_other_is_listed() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`((?:CORGI|MLFLOW|OTEL)_[A-Z_]+)`", text))
    read = {
        str(field.validation_alias or f"CORGI_{name.upper()}")
        for name, field in Variables.model_fields.items()
    }
    assert listed == read


def test_every_preset_has_a_row() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \| [^|]*\|$", text.split("## A file")[0], re.M) == list(
        PRESETS
    )
