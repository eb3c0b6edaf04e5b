"""`corgi backup` and `corgi restore`: all of CORGI_HOME in one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a tar.")]


def backup(file: FileArgument) -> None:
    """Write all workspaces of CORGI_HOME to one file: runs, models, reports, settings, databases.

    Runs may go on meanwhile. Datasets and object stores are not in it and are named: DVC, or the
    bucket, has their versions. Unfinished trainings are made again.
    """
    from orchestration.resources.backup import back_up
    from orchestration.settings import Settings

    index = back_up(Settings.from_environment(), file)
    contents = {digest for digest, *_ in index.files.values()} | set(index.databases.values())
    databases = ", ".join(index.databases) or "SQLite"
    typer.echo(
        f"{file}: {len(index.files):,} files, {len(contents):,} different, "
        f"{file.stat().st_size / 2**20:,.1f} MB; databases: {databases}"
    )
    _name_elsewhere("Not in it", index.elsewhere)


def restore(file: FileArgument) -> None:
    """Make CORGI_HOME again from a backup: checked by its digests, whole or not at all.

    Nothing is overwritten: a home that is there is to be moved away first.
    """
    from orchestration.resources.backup import restore as restored
    from orchestration.settings import Settings

    settings = Settings.from_environment()
    index = restored(settings, file)
    typer.echo(f"{settings.home}: {len(index.files):,} files restored")
    _name_elsewhere("It needs as well", index.elsewhere)


def _name_elsewhere(what: str, elsewhere: list[str]) -> None:
    for each in elsewhere:
        typer.echo(f"{what}: {each}")
