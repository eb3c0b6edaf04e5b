"""Dagster's instance of a workspace: runs, events and pools, under the workspace's state."""

from __future__ import annotations

import atexit
import logging
import re
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import IntegrityError

from corgi_core.io.files import atomic_file, digest_of_file
from orchestration.settings import Settings

CONFIGURATION = files("infra") / "dagster.yaml"
WRITTEN = "dagster.yaml.default"  # beside dagster.yaml: what Corgi wrote there
BEFORE_WRITTEN = {"6e2a96465a8618d6"}  # digests of what Corgi wrote before it stored that file
PROMOTION = "promotion"  # a pool of one, whatever the others have
UNQUOTED = {"%", "?"}  # Dagster 1.13 puts paths into database URLs without quoting these

log = logging.getLogger(__name__)


def prepare_home(settings: Settings) -> Path:
    """The folder of the workspace's Dagster instance, with its configuration.

    A `dagster.yaml` that the user has edited stays as it is; a warning says when a new version of
    Corgi has another one.
    """
    home = settings.dagster_home
    ours = _configuration(settings.preset.ray.device_jobs, settings.database_url)
    path, written = home / "dagster.yaml", home / WRITTEN
    if _is_unedited(path, written):
        _write(path, ours)
    elif written.exists() and written.read_bytes() != ours:
        log.warning("%s was edited and stays as it is; Corgi now has %s", path, CONFIGURATION)
    _write(written, ours)
    return _alias(home) if UNQUOTED & set(str(home)) else home


def _configuration(device_jobs: int, database_url: str | None) -> bytes:
    """The file, in which the pools have so many slots, and storage is that database or SQLite."""
    given = CONFIGURATION.read_bytes()
    if device_jobs != 1:
        limit = f"default_limit: {device_jobs} # ray.device_jobs"
        given = re.sub(rb"default_limit: 1\b.*", limit.encode(), given)
    if database_url is not None:
        given += f"storage:\n  postgres:\n    postgres_url: {database_url}\n".encode()
    return given


def _is_unedited(path: Path, written: Path) -> bool:
    if not path.exists():
        return True
    if written.exists():
        return path.read_bytes() == written.read_bytes()
    return digest_of_file(path) in BEFORE_WRITTEN


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The persistent instance."""
    instance = dg.DagsterInstance.from_config(str(prepare_home(settings)))
    limit_promotions(instance)
    return instance


def limit_promotions(instance: dg.DagsterInstance) -> None:
    """Give the pool of promotions one slot, whatever `dagster.yaml` or somebody on the page says.

    Two that are decided at once would be decided against the same champion.
    """
    storage = instance.event_log_storage
    limits = [each for each in storage.get_pool_limits() if each.name == PROMOTION]
    if not any(each.limit == 1 and not each.from_default for each in limits):
        with suppress(IntegrityError):  # another process has just done so
            storage.set_concurrency_slots(PROMOTION, 1)


@cache
def _alias(folder: Path) -> Path:
    """Another path of the folder, one in this process, with which it ends."""
    private = tempfile.mkdtemp(prefix="corgi-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    alias = Path(private, "dagster")
    alias.symlink_to(folder, target_is_directory=True)
    return alias
