"""The wheel carries all that runs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("corgi_core", "assets", "orchestration", "infra")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in a wheel built from a copy of the sources, by the project's build backend."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in (*PACKAGES, "benchmarks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    build = f"import setuptools.build_meta as b; b.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_source_file_and_every_file_of_settings(names: set[str]) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for pattern in (
            "*.py",
            "*.yaml",
            "*.html",
            "*.sql",
            "*.safetensors",
            "Dockerfile",
            "py.typed",
        )
        for path in (ROOT / package).rglob(pattern)
    }
    assert {"infra/dagster.yaml", "corgi_core/config/presets/emoji.yaml"} <= wanted
    assert {"corgi_core/py.typed", "assets/py.typed", "orchestration/py.typed"} <= wanted
    assert not wanted - names


def test_the_wheel_has_nothing_else(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
