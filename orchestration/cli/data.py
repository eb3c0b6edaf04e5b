"""`corgi ingest` and `corgi gate`: from people's files to data that can be trained on."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
    options_of,
)


def ingest(
    path: Annotated[
        str | None,
        typer.Argument(help="A folder, or tar shards; none for the preset's own source."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="emoji, imagefolder, webdataset or embeddings."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What to call the dataset; its folder is data/NAME."),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(help="The caption's column in metadata.jsonl/.csv or key in .json."),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Read images and captions into shards and a manifest, bytes untouched.

    Embeddings that CLIP encoders made already (Parquet with a key and lists of floats, or .npy
    with keys beside it) come in by --format embeddings, with --preset embeddings.
    """
    if path is not None and (format is None or name is None):
        raise CorgiError(
            f"how to read {path} is not said",
            "add --format imagefolder, webdataset or embeddings, and --name NAME",
        )
    settings = chosen_settings(preset, name, config, overrides)
    from corgi_core.data.dataset import check_dataset_folder
    from corgi_core.data.ingest import ingest

    data = settings.preset.data
    folder = settings.dataset_folder / "raw_images"
    for written in (folder, settings.dataset_folder / "images"):
        check_dataset_folder(written)
    try:
        raw = ingest(
            format or data.source, path, folder, data, settings.preset.seed, caption_column
        )
    except CorgiError:
        with suppress(OSError):  # what is not empty stays
            settings.dataset_folder.rmdir()
            settings.data.rmdir()
        raise
    typer.echo(f"{folder}: {len(raw):,} images")
    if name is not None:
        typer.echo(f"Next: corgi run{options_of(settings)}")


def gate(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Pass ingested data through the quality gate; says what it refused."""
    settings = chosen_settings(preset, dataset, config, overrides)
    from corgi_core.data.dataset import Dataset
    from corgi_core.data.expectations import check_manifest
    from corgi_core.data.quality import gate, quarantine_of

    raw = Dataset.load(settings.dataset_folder / "raw_images")
    images = gate(raw, settings.dataset_folder / "images", settings.preset.data)
    actions = quarantine_of(images)["action"].value_counts()
    typer.echo(
        f"{images.folder}: {len(images):,} images, {actions.get('normalised', 0)} normalised, "
        f"{actions.get('quarantined', 0)} quarantined (quarantine.parquet says why)"
    )
    if failures := check_manifest(images.manifest).failures:
        raise CorgiError(
            f"the gated data do not meet the expectations: {'; '.join(failures)}",
            "mend the data and ingest them again",
        )
