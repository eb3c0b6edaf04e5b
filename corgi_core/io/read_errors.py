"""Why a file cannot be read although it may be whole, and what to do about it.

A file that is missing or damaged must be made again. One that this process may not read, or cannot
read now, must not: it is whole once access, the limit of open files or the network is mended.
"""

from __future__ import annotations

import errno
from pathlib import Path

from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.object_store import explained_error

_ACCESS = ("access is denied", "let this user read that file and enter the folders above it")
_HANDLES = ("too many files are open", "raise the limit (ulimit -n 4096), and run it again")
_REASONS = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.EIO: (
        "its disk fails",
        "look into the system's log, and bring the file back from a copy on another disk",
    ),
    errno.ESTALE: (
        "the network folder that it is in was unmounted or replaced",
        "mount that folder again, and run it again",
    ),
}
_NO_ANSWER = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)


def explained_read_error(error: Exception, path: Path | UPath | str) -> CorgiError | None:
    """What keeps `path` from being read though it may be whole, with the remedy.

    None for all else that reading it may raise: then it is missing or damaged.
    """
    if (explained := explained_error(error, str(path))) is not None:
        return explained
    if not isinstance(error, OSError):
        return None
    if error.errno in _REASONS:
        problem, remedy = _REASONS[error.errno]
        return CorgiError(f"{path} cannot be read: {problem}", remedy)
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _NO_ANSWER:
        return CorgiError(
            f"{path} cannot be read: its server does not answer ({error.strerror or error})",
            "check the network, and run it again: what is done stays",
        )
    return None


def is_no_fault_of_the_file(error: Exception) -> bool:
    """Whether reading any other file would fail as well: open files, network, the store."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return True
    return isinstance(error, ConnectionError | TimeoutError)
