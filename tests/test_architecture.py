"""Imports run one way, and loading a code location stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "torchvision", "diffusers", "transformers", "open_clip", "ray", "mlflow", "dvc",
    "great_expectations", "faiss", "matplotlib", "pandas",
}  # fmt: skip
ABOVE_ASSETS = ("orchestration.definitions", "orchestration.automation", "orchestration.cli")


def loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_core_loads_no_torch_and_no_orchestrator() -> None:
    loaded = loaded_after("import corgi_core, corgi_core.config, corgi_core.data.dataset")
    assert not loaded & {"torch", "dagster", "ray", "mlflow"}


def test_the_code_location_loads_nothing_heavy() -> None:
    assert not loaded_after("import orchestration.definitions") & HEAVY


def test_the_command_line_loads_no_orchestrator() -> None:
    assert not loaded_after("import orchestration.cli.app") & (HEAVY | {"dagster", "numpy"})


def test_drawing_waits_for_no_orchestrator() -> None:
    loaded = loaded_after("import orchestration.cli.generate, orchestration.cli.app")
    assert not loaded & (HEAVY | {"dagster", "numpy"})


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether at module level and at run time) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_load = set()
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            at_load |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", id(node) in at_load


@pytest.mark.parametrize("path", files("corgi_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_knows_nothing_above_it(path: Path) -> None:
    above = {"dagster", "dagster_ray", "ray", "mlflow", "dvc", "assets", "orchestration"}
    assert not {module.partition(".")[0] for module, _ in imported(path)} & above


@pytest.mark.parametrize(
    "path", files("assets", "orchestration"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_heavy_modules_are_imported_where_they_are_used(path: Path) -> None:
    at_load = {module.partition(".")[0] for module, loading in imported(path) if loading}
    assert not at_load & HEAVY


@pytest.mark.parametrize("path", files("assets"), ids=lambda p: str(p.relative_to(ROOT)))
def test_assets_know_nothing_above_them(path: Path) -> None:
    assert not [module for module, _ in imported(path) if module.startswith(ABOVE_ASSETS)]


@pytest.mark.parametrize(
    "path", files("orchestration/resources"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_resources_know_no_assets(path: Path) -> None:
    assert not {module for module, _ in imported(path) if module.startswith("assets")}
