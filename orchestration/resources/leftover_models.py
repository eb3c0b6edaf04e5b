"""Registered models that nobody would generate from, retrain from or go back to; MLflow's files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of_file, is_local
from corgi_core.io.folders import published, remove_folder
from corgi_core.io.model_index import MODELS_FILE, PARTS, ModelIndex
from orchestration.resources.leftovers import Kind, Leftover, Materialized, size_of
from orchestration.resources.model_registry import DIGEST_TAG, MODEL_TAG, PIPELINE, Registry
from orchestration.resources.promotion_history import PROMOTIONS, History

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

ROLLBACKS = 3  # champions before the present one that stay, of every alias
SMALLEST = 1 << 16  # bytes of weights that are worth a link


def needed_versions(
    registry: Registry, present: Iterable[Materialized], since: int
) -> list[ModelVersion]:
    """The versions that stay.

    They have an alias, whoever gave it; or are among the last champions that `corgi rollback` can
    go back to, or in `models.json`, by which `corgi generate` finds its models; or they hold a
    model that is materialised now, or that a pipeline which stays loads; or are younger than
    `since`; or Corgi did not make them.

    Args:
        registry: Of the workspace.
        present: The latest materializations.
        since: Milliseconds since 1970.
    """
    needed = _needed_pipelines(registry, since)
    digests = {each.digest for each in present} | _indexed_digests(registry)
    digests |= {pipeline.tags.get(part) for pipeline in needed for part in PARTS}
    history = History(registry.state / PROMOTIONS)
    for part in PARTS:
        versions, aliases = registry.versions(part), registry.aliases(part)
        numbers = set(aliases.values())
        for alias in {entry.alias for entry in history.entries() if entry.part == part}:
            stack = [e.version for e in history.champions(part, alias) if e.version in versions]
            numbers |= set(stack[-1 - ROLLBACKS :])
        needed += [
            version
            for number, version in versions.items()
            if number in numbers
            or version.tags.get(DIGEST_TAG) in digests
            or version.creation_timestamp >= since
            or not {DIGEST_TAG, MODEL_TAG} <= version.tags.keys()
        ]
    return needed


def _needed_pipelines(registry: Registry, since: int) -> list[ModelVersion]:
    """The versions of all champions together that stay; a rollback makes its own again."""
    aliased = set(registry.aliases(PIPELINE).values())
    return [
        version
        for number, version in registry.versions(PIPELINE).items()
        if number in aliased
        or version.creation_timestamp >= since
        or DIGEST_TAG not in version.tags
    ]


def models_left_over(
    registry: Registry, needed: Collection[ModelVersion], since: int
) -> Iterator[Leftover]:
    """Logged models of which no version is needed, with their versions.

    One that somebody registered under another name stays. One without any version is what a killed
    registration or removal left.
    """
    numbers = {(version.name, str(version.version)) for version in needed}
    all_versions = registry.all_versions()
    for model in registry.logged_models():
        versions = [each for each in all_versions if _is_of(each, model)]
        if (
            model.creation_timestamp >= since
            or all(DIGEST_TAG not in tags for tags in (model.tags, *(v.tags for v in versions)))
            or any(
                (each.name, str(each.version)) in numbers or not registry.has(each)
                for each in versions
            )
        ):
            continue
        name = ", ".join(f"{each.name} {each.version}" for each in versions) or str(model.name)
        local = _local(str(model.artifact_location))
        remove = partial(_remove, registry, model, versions)
        yield Leftover(Kind.VERSIONS, name, size_of(local) if local else 0, remove)


def copies_left_over(registry: Registry) -> Iterator[Leftover]:
    """Copies of models beside `models.json` that it does not name."""
    digests, copies = _indexed_digests(registry), registry.state / "models"
    for folder in sorted(copies.iterdir()) if copies.is_dir() else []:
        if folder.is_dir() and folder.name not in digests:
            remove = partial(remove_folder, folder)
            yield Leftover(Kind.COPIES, folder.name, size_of(folder), remove)


def deleted_runs_left_over(registry: Registry, since: int) -> Iterator[Leftover]:
    """Files of runs that people deleted in MLflow, and that ended before `since`.

    Those that somebody registered stay.
    """
    sources = [str(version.source) for version in registry.all_versions()]
    for run in registry.deleted_runs():
        if any(run.info.run_id in source for source in sources):
            continue
        local = _local(str(run.info.artifact_uri))
        there = local.exists() if local else registry.has_artifacts(run)
        if there and (run.info.end_time or run.info.start_time or since) < since:
            remove = partial(registry.delete_artifacts, str(run.info.artifact_uri))
            yield Leftover(Kind.DELETED_RUNS, _name(run), size_of(local) if local else 0, remove)


def weights_stored_twice(
    present: Iterable[Materialized], others: Iterable[tuple[str, Path]]
) -> Iterator[Leftover]:
    """Weights in other folders, by their names, that are in storage or in an earlier one of them.

    On one disk they become one file with several names. No file of a model is ever written again,
    so what is read does not change.
    """
    known = defaultdict[tuple[int, int], list[Path]](list)
    for each in present:
        if is_local(stored_in := published(each.folder)):
            for path in _weights_in(Path(str(stored_in))):
                known[_disk_and_size(path)].append(path)
    digest = cache(digest_of_file)
    for name, folder in others:
        for path in _weights_in(folder):
            candidates = known[about := _disk_and_size(path)]
            if any(path.samefile(other) for other in candidates):
                continue
            same = next((other for other in candidates if digest(other) == digest(path)), None)
            if same is None:
                candidates.append(path)
            else:
                yield Leftover(Kind.TWICE, name, about[1], partial(_link, same, path))


def folders_of(versions: Iterable[ModelVersion]) -> Iterator[tuple[str, Path]]:
    """The local folders of versions, with the versions' names."""
    for version in versions:
        if folder := _local(str(version.source)):
            yield f"{version.name} {version.version}", folder


def _is_of(version: ModelVersion, model: LoggedModel) -> bool:
    """Whether a version's files are a logged model's, whoever registered it."""
    return (
        model.model_id in (version.model_id, version.tags.get(MODEL_TAG))
        or model.model_id in str(version.source)
    )  # fmt: skip


def _indexed_digests(registry: Registry) -> set[str]:
    try:
        index = ModelIndex.load(registry.state / MODELS_FILE)
    except CorgiError:  # nothing is registered yet
        return set()
    return {model.digest for by_alias in index.models.values() for model in by_alias.values()}


def _remove(registry: Registry, model: LoggedModel, versions: Iterable[ModelVersion]) -> None:
    """Remove the versions, then the files, then the logged model, by which the rest is found."""
    for version in versions:
        registry.delete_version(version)
    registry.delete_artifacts(str(model.artifact_location))
    registry.delete_logged_model(model)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, in the stead of one of equal content; or leave both."""
    with atomic_file(target) as temporary:
        Path(str(temporary)).unlink(missing_ok=True)
        os.link(source, str(temporary))


def _disk_and_size(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_size


def _weights_in(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return [path for path in found if path.stat().st_size >= SMALLEST]


def _local(address: str) -> Path | None:
    """The local folder that an address of MLflow's names; None where it names no local one."""
    parts = urlsplit(address)
    path = Path(unquote(parts.path))
    return path if parts.scheme in ("", "file") and path.is_absolute() else None


def _name(run: Run) -> str:
    return str(run.info.run_name or run.info.run_id)
