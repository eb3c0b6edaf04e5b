"""Names in our Python are the field's words: docs/GLOSSARY.md lists those that are avoided."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
FOLDERS = ("corgi_core", "assets", "orchestration", "infra", "benchmarks", "examples", "tests")
AVOIDED = {
    "draw", "draws", "drawn", "drawing", "drawings", "place", "places", "piece", "pieces", "told",
    "seen", "shown", "kept", "stranger", "strangers", "journal",
}  # fmt: skip


def names_defined_in(code: str) -> Iterator[str]:
    """Names of functions, tests among them, of classes, arguments, variables and fields."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case (
                ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
            ):
                yield name


def avoided_in(name: str) -> set[str]:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return {word.lower() for word in words} & AVOIDED


@pytest.mark.parametrize("folder", FOLDERS)
def test_our_python_says_the_fields_words(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in (path.stem, *names_defined_in(path.read_text(encoding="utf-8")))
        if avoided_in(name)
    ]
    assert not found, found


@pytest.mark.parametrize(
    "code",
    [
        "def test_what_is_drawn(): pass",
        "async def draw(): pass",
        "class ShownRows: pass",
        "lambda *told: 0",
        "MAX_PLACES = 1",
        "self.seen = 1",
        "import this as journal",
        "for kept in (): pass",
        "try: pass\nexcept Exception as piece: pass",
    ],
)
def test_an_avoided_name_is_found_wherever_it_is_defined(code: str) -> None:
    assert any(avoided_in(name) for name in names_defined_in(code))


def test_a_librarys_names_and_ordinary_words_are_not_ours() -> None:
    code = "ImageDraw.Draw(sheet); replace(placed_by)"
    assert not any(avoided_in(name) for name in names_defined_in(code))
    assert not any(avoided_in(name) for name in ("replace", "unplaced", "overdrawn"))
