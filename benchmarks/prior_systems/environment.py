"""The environment in which DALLE2-pytorch runs: made on first use, in seconds.

It holds the package and what only that needs, at pinned versions; all else it inherits from the
environment that runs the benchmark, so both sides compute with the same torch.
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

REQUIREMENTS = Path(__file__).with_name("dalle2-requirements.txt")


def dalle2_python(home: Path) -> Path:
    """The interpreter of the environment under `home`; needs the package registry the first time.

    Raises CorgiError if pip cannot install the requirements.
    """
    inherited = sysconfig.get_paths()["purelib"]
    name = f"dalle2-{digest_of(REQUIREMENTS.read_text(), sys.version, inherited)}"
    folder = home.resolve() / name
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            _make(Path(str(temporary)), inherited)
    return folder / "bin" / "python"


def _make(folder: Path, inherited: str) -> None:
    venv.create(folder, with_pip=True)
    # No --no-deps by taste: its dependencies' newest versions would bring a second torch.
    install = [
        folder / "bin" / "python", "-m", "pip", "install", "--quiet",
        "--disable-pip-version-check", "--no-deps", "--requirement", REQUIREMENTS,
    ]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CorgiError(
            f"DALLE2-pytorch could not be installed: {done.stderr.strip().splitlines()[-1]}",
            "connect to the package registry, or leave it out with --systems corgi,diffusers",
        )
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "inherited.pth").write_text(f"{inherited}\n")
