"""Imports run one way, and loading a code location stays light."""

from __future__ import annotations

import ast
import re
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


def test_the_code_location_loads_in_any_environment() -> None:
    """The environment is read when definitions are built, not at import."""
    assert loaded_after(
        "import os; os.environ['CORGI_PRESET'] = 'nope'; import orchestration.definitions"
    )


def test_the_command_line_loads_no_orchestrator() -> None:
    assert not loaded_after("import orchestration.cli.app") & (
        HEAVY | {"dagster", "numpy", "pydantic", "upath"}
    )


def test_generating_waits_for_no_orchestrator() -> None:
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


# From the top down: a file imports from its own room and from those below it.
ROOMS = (
    ("orchestration.cli",),
    ("orchestration.definitions",),
    ("orchestration.automation", "assets"),
    ("orchestration.resources", "orchestration.partitions", "orchestration.proxy"),
    ("orchestration.settings",),
    ("orchestration.access",),
    ("orchestration.environment",),
    ("corgi_core",),
)
OURS = ("corgi_core", "assets", "orchestration", "benchmarks")
PRIVATE = {  # the one file that imports a library's private modules, with its reason
    "dagster._": "orchestration/automation/staleness.py",
    "ray.train.v2._internal": "orchestration/resources/ray_train.py",
    "ray._private": "orchestration/resources/worker_shape.py",
}


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def at_run_time(path: Path) -> Iterator[str]:
    """Every module that a file imports when it runs, in functions too: not for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for branch in node.body
        for inner in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Our modules, and those of ours that each imports."""
    paths = {module_of(path): path for path in files(*OURS)}
    return {
        module: {each for each in at_run_time(path) if each in paths and each != module}
        for module, path in paths.items()
    }


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, in order; none where there is no circle."""
    done: set[str] = set()

    def search(node: str, above: list[str]) -> list[str]:
        if node in above:
            return above[above.index(node) :]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if found := search(following, [*above, node]):
                return found
        done.add(node)
        return []

    return next((found for node in graph if (found := search(node, []))), [])


def test_files_do_not_import_in_circles(imports: dict[str, set[str]]) -> None:
    assert not circle_in(imports)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_packages_do_not_import_in_circles(imports: dict[str, set[str]], depth: int) -> None:
    """Packages of each depth: orchestration, orchestration.cli, corgi_core.decoders.pca, …"""

    def package(module: str) -> str:
        return ".".join(module.split(".")[:depth])

    graph: dict[str, set[str]] = {}
    for module, others in imports.items():
        within = {package(other) for other in others} - {package(module)}
        graph.setdefault(package(module), set()).update(
            other for other in within if not package(module).startswith(f"{other}.")
        )
    if depth == 1:  # assets stand between two rooms of orchestration
        graph = {f"{name}": others - {"assets", "orchestration"} for name, others in graph.items()}
    assert not circle_in(graph)


def room_of(module: str) -> int | None:
    for level, names in enumerate(ROOMS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return level
    return None


def test_imports_run_down_through_the_rooms(imports: dict[str, set[str]]) -> None:
    upward = [
        (module, other)
        for module, others in imports.items()
        for other in others
        if None not in (room_of(module), room_of(other)) and room_of(module) > room_of(other)
    ]
    assert not upward


@pytest.mark.parametrize(
    "path",
    files("corgi_core", "assets", "orchestration"),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_environment_is_read_and_completed_in_two_files_alone(path: Path) -> None:
    if path.parent != ROOT / "orchestration" or path.stem not in ("settings", "environment"):
        code = path.read_text(encoding="utf-8")
        assert not re.search(r"\bos\.(environ|getenv|putenv)\b|from os import .*environ", code)


@pytest.mark.parametrize("prefix", PRIVATE)
def test_a_librarys_private_modules_are_imported_in_one_file(prefix: str) -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in files(*OURS)
        for module, _ in imported(path)
        if module.startswith(prefix)
    }
    assert found == {PRIVATE[prefix]}
    docstring = ast.get_docstring(ast.parse((ROOT / PRIVATE[prefix]).read_text("utf-8"))) or ""
    assert re.search(rf"{prefix.partition('.')[0]}.*\d+\.\d+", docstring, re.I | re.S)


LONGEST_BODY = 12  # lines of an asset or a check, imports among them


def lines_of_bodies() -> Iterator[tuple[str, int]]:
    """Each asset and check, and the lines of its body that are neither blank nor docstring."""
    for path in files("assets"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(decorator).startswith(("dg.asset(", "dg.asset_check("))
                for decorator in node.decorator_list
            ):
                first, last = node.body[1], node.body[-1]
                assert ast.get_docstring(node), f"{path.stem}.{node.name} has no docstring"
                body = lines[first.lineno - 1 : last.end_lineno]
                yield f"{path.stem}.{node.name}", sum(bool(line.strip()) for line in body)


def test_bodies_of_assets_are_short() -> None:
    """Inputs, one call, one result with metadata; what is longer belongs in a room below."""
    lines = dict(lines_of_bodies())
    assert len(lines) > 30
    assert not {name: count for name, count in lines.items() if count > LONGEST_BODY}
