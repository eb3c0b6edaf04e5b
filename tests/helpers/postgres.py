"""A PostgreSQL cluster of Debian's in a temporary folder, which a user other than root runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "corgi", "a password: é"


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; skips the test where it is not installed."""
    found = shutil.which(name) or next(
        iter(sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True)),
        None,
    )
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found


def as_owner(*command: str) -> list[str]:
    """The command, run by the user postgres where this is root, whom PostgreSQL refuses."""
    return ["runuser", "-u", "postgres", "--", *command] if os.getuid() == 0 else list(command)


@contextmanager
def empty_cluster() -> Iterator[Path]:
    """The folder of a new cluster of the user `corgi`, who gives the password PASSWORD."""
    initdb = program("initdb")
    folder = Path(tempfile.mkdtemp(prefix="corgi-postgres-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        subprocess.run(
            as_owner(
                initdb, "-D", str(folder / "data"), "-U", USER, "--no-sync", "--encoding=UTF8",
                "--pwfile", str(folder / "password"), "--auth=scram-sha-256", "--locale=C.UTF-8",
            ),
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        yield folder / "data"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serving_command(data: Path, port: int, sockets: Path) -> Sequence[str]:
    """The server's command line; nothing of it need survive a power cut."""
    return as_owner(
        program("postgres"), "-D", str(data), "-p", str(port), "-k", str(sockets),
        "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1",
    )  # fmt: skip
