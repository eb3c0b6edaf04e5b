"""How every command ends: its messages and exit codes.

Exit codes: 0 done, 1 a defect of Corgi's, 2 something that the user can fix, 130 interrupted by
Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from corgi_core.errors import CorgiError
from orchestration.cli.interrupts import exit_code, interrupts_raised
from orchestration.resources.interrupts import MESSAGE

DEFECT, FIXABLE = 1, 2  # exit codes
LOG = "corgi.log"
ELSEWHERE = "choose another folder with --out, CORGI_HOME or CORGI_DATA"
FILE_ERRORS = {  # what is wrong, and how to fix it
    errno.ENOSPC: ("the disk is full", f"free some space, or {ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space, or {ELSEWHERE}"),
    errno.EACCES: ("access is denied", f"change the permissions, or {ELSEWHERE}"),
    errno.EPERM: ("access is denied", f"change the permissions, or {ELSEWHERE}"),
    errno.EROFS: ("the file system is read-only", ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another path"),
    errno.EEXIST: ("a file of that name is in the way", "choose another path, or move that file"),
    errno.EISDIR: ("it is a folder, not a file", "choose another path"),
    errno.EMFILE: ("too many files are open", "raise the limit: ulimit -n 4096"),
}
DATABASE_ERRORS = {
    "unable to open database file": errno.EACCES,
    "attempt to write a readonly database": errno.EACCES,
    "database or disk is full": errno.ENOSPC,
}


class CommandGroup(TyperGroup):
    """Commands whose errors are printed in one line and become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        try:
            with interrupts_raised():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            typer.echo(MESSAGE, err=True)
            raise typer.Exit(exit_code(interrupt)) from None
        except (TyperException, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if fixable := fixable_error(error):
                print_error(fixable)
                raise typer.Exit(FIXABLE) from None
            print_defect(error)
            raise typer.Exit(DEFECT) from None


def print_error(error: CorgiError) -> None:
    """Print what is wrong and how to fix it, in one line on stderr."""
    end = "" if error.remedy.endswith("?") else "."
    typer.secho(f"Error: {error.problem}. Fix: {error.remedy}{end}", err=True, fg="red")


def print_defect(error: Exception) -> None:
    """Print a defect of Corgi's in one line; its traceback goes to a log file."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    typer.secho(f"Failed: {type(error).__name__}: {first_line}", err=True, fg="red")
    from orchestration.environment import home_folder
    from orchestration.resources.log_rotation import rotate

    for folder in (home_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            rotate(folder / LOG)
            with (folder / LOG).open("a", encoding="utf-8") as file:
                traceback.print_exception(error, file=file)
        except OSError:
            continue
        typer.echo(f"The details are in {folder / LOG}", err=True)
        return


def fixable_error(error: BaseException | None) -> CorgiError | None:
    """The error, or its cause, as something that the user can fix; None for a defect."""
    from corgi_core.io.object_store import explained_error

    while error is not None:
        if isinstance(error, CorgiError):
            return error
        if (explained := explained_error(error)) is not None:
            return explained
        if isinstance(error, OSError) and error.errno in FILE_ERRORS:
            return _file_error(error.errno, error.filename)
        reason = getattr(error, "orig", error)  # SQLAlchemy wraps the database's errors
        if isinstance(reason, sqlite3.OperationalError) and str(reason) in DATABASE_ERRORS:
            return _file_error(DATABASE_ERRORS[str(reason)], "a database in CORGI_HOME")
        error = error.__cause__
    return None


def _file_error(number: int, path: str | bytes | int | None) -> CorgiError:
    problem, remedy = FILE_ERRORS[number]
    name = os.fsdecode(path) if isinstance(path, str | bytes) else None
    return CorgiError(f"{name}: {problem}" if name else problem, remedy)
