"""The examples in docstrings do what they show. Modules without examples are not imported."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
PACKAGES = ("corgi_core", "assets", "orchestration")


def files_with_examples() -> list[Path]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in paths if ">>> " in path.read_text(encoding="utf-8")]


every_file = pytest.mark.parametrize(
    "path", files_with_examples(), ids=lambda path: str(path.relative_to(ROOT))
)


@every_file
def test_the_examples_of_docstrings_are_true(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The examples of `CorgiPipeline` call a tiny one."""
    monkeypatch.chdir(tmp_path)
    known = {"pipeline": request.getfixturevalue("pipeline")} if path.stem == "pipeline" else {}
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    module = importlib.import_module(name.removesuffix(".__init__"))
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=options, extraglobs=known)
    assert any(found.examples for found in doctest.DocTestFinder().find(module))
    assert not result.failed


@every_file
def test_examples_are_a_section_which_the_reference_shows_as_code(path: Path) -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        if text and ">>> " in text:
            assert "\nExamples:\n    >>> " in text, text
