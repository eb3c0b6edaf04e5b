"""How a command ends that could not do what it was asked: one sentence, and the exit code.

0 is done, 1 a defect of Corgi's, 2 something that the user can fix, 130 an interrupt.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import typer

from corgi_core.errors import CorgiError


def print_error(error: CorgiError) -> None:
    """Print what is wrong and how to fix it, in one line on stderr."""
    end = "" if error.remedy.endswith("?") else "."
    typer.secho(f"Error: {error.problem}. Fix: {error.remedy}{end}", err=True, fg="red")


def print_failure(error: Exception, log: Path) -> None:
    """Print a defect in one line, and append its traceback to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    first_line = (str(error).strip().splitlines() or [""])[0]
    typer.secho(f"Failed: {type(error).__name__}: {first_line}", err=True, fg="red")
    typer.secho(f"The details are in {log}", err=True)


def run_command(command: typer.Typer, log: Path) -> None:
    """Run the command line of this process; errors are printed and become exit codes."""
    try:
        command()
    except CorgiError as error:
        print_error(error)
        sys.exit(2)
    except Exception as error:
        print_failure(error, log)
        sys.exit(1)
