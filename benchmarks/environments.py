"""Environments in which other people's packages run: made on first use, in seconds.

Each holds a package and what only that needs, at pinned versions; all else it inherits from the
environment that runs the benchmark, so all sides compute with the same torch.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.io.folders import atomic_folder


def python_with(requirements: Path, home: Path, name: str) -> Path:
    """The interpreter of the environment under `home`; needs the package registry the first time.

    Args:
        requirements: The file that lists what is installed, without what each of them requires.
        home: Where environments are.
        name: What the environment is for, as `--systems` calls it.

    Raises:
        CorgiError: pip cannot install the requirements.
    """
    inherited = sysconfig.get_paths()["purelib"]
    folder = (
        home.resolve() / f"{name}-{digest_of(requirements.read_text(), sys.version, inherited)}"
    )
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            _make(Path(str(temporary)), requirements, inherited, name)
    return folder / "bin" / "python"


def _make(folder: Path, requirements: Path, inherited: str, name: str) -> None:
    venv.create(folder, with_pip=True)
    # No --no-deps by taste: the dependencies' newest versions would bring a second torch.
    install = [
        folder / "bin" / "python", "-m", "pip", "install", "--quiet",
        "--disable-pip-version-check", "--no-deps", "--requirement", requirements,
    ]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CorgiError(
            f"{name} could not be installed: {done.stderr.strip().splitlines()[-1]}",
            "connect to the package registry, or leave it out with --systems",
        )
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "inherited.pth").write_text(f"{inherited}\n")
