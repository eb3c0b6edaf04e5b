"""Work folders that no model needs any more: a next run would begin in another one.

A work folder lets a training or a study go on where it was interrupted. Its model is stored
elsewhere. So it may go once a later materialization has replaced what it was for.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from upath import UPath

from corgi_core.io.files import is_local, remove_file
from corgi_core.io.folders import remove_folder
from orchestration.resources.leftovers import Kind, Leftover, Materialized, size_of
from orchestration.resources.workspace import Workspace

FINISHED, CHECKPOINTS = "finished.json", "checkpoints"
REMOVED = ".removed.tmp"  # how the name of a folder ends that is being removed


def work_left_over(
    workspace: Workspace, present: Iterable[Materialized], identities: Collection[str]
) -> Iterator[Leftover]:
    """Work folders of replaced models, and checkpoints that a finished training left.

    What was written after the partition's latest materialization is work that goes on.

    Args:
        workspace: Whose work it is.
        present: The latest materializations.
        identities: Of trainings whose models are still referred to.
    """
    for each, name, folder in work_of(workspace, present):
        if folder.name.endswith(REMOVED) or (
            folder.name not in identities and _is_before(folder, each.moment)
        ):
            yield Leftover(Kind.WORK, name, size_of(folder), partial(_remove, folder))
        elif (folder / FINISHED).exists() and (folder / CHECKPOINTS).exists():
            size = size_of(folder / CHECKPOINTS)
            remove = partial(remove_folder, folder / CHECKPOINTS)
            yield Leftover(Kind.CHECKPOINTS, name, size, remove)


def work_of(
    workspace: Workspace, present: Iterable[Materialized]
) -> Iterator[tuple[Materialized, str, UPath]]:
    """The work folders of partitions, with the folders' names for people."""
    roots = [UPath(workspace.work)]
    if workspace.trainings is not None:
        roots.append(UPath(workspace.trainings))
    for each in present:
        for root in roots:
            for folder in _folders_in(workspace.work_of(root, each.asset, each.partition)):
                yield (
                    each,
                    str(folder.relative_to(root)) if is_local(folder) else str(folder),
                    folder,
                )


def _folders_in(folder: UPath) -> list[UPath]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _is_before(folder: UPath, moment: float) -> bool:
    """Whether nothing was written there since; no where the storage does not say when."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    moments = [float(each.stat().st_mtime) for each in files]
    return bool(moments) and min(moments) > 0 and max(moments) < moment


def _remove(folder: UPath) -> None:
    """Remove a folder that nobody finds half: by another name on a disk, result first in a store.

    A training that goes on there begins anew.
    """
    if not is_local(folder):
        remove_file(folder / FINISHED)
        remove_folder(folder)
        return
    path = Path(str(folder))
    if not path.name.endswith(REMOVED):
        path = path.rename(path.with_name(f".{path.name}{REMOVED}"))
    shutil.rmtree(path)
