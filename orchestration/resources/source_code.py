"""Which source is running: the commit of Corgi's own repository."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def git_commit(file: Path = Path(__file__)) -> str | None:
    """The commit that is checked out where a source file lies; None where no repository has it.

    "-changed" is added where tracked files are other than in the commit.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None  # installed, perhaps below somebody else's repository
    commit = _git(file.parent, "rev-parse", "HEAD")
    changed = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-changed" if commit and changed else commit


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
