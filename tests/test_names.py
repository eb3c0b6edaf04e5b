"""Names in the core are the field's words: docs/GLOSSARY.md lists those that are avoided."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
AVOIDED = {
    "draw", "draws", "drawn", "drawing", "place", "places", "piece", "pieces", "told", "seen",
    "shown", "kept", "stranger", "strangers", "journal",
}  # fmt: skip


def names_defined_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize(
    "path", sorted((ROOT / "corgi_core").rglob("*.py")), ids=lambda path: str(path.name)
)
def test_the_core_says_the_fields_words(path: Path) -> None:
    for name in names_defined_in(path):
        words = set(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))
        assert not {word.lower() for word in words} & AVOIDED, name
