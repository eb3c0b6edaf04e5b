"""The command line. Every command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.generate import generate
from orchestration.cli.options import DatasetOption, PresetOption, chosen_settings

cli = typer.Typer(
    name="corgi",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Shifted diffusion for text-to-image generation, from raw data to pictures.

    [bold]Start here[/bold]

    [bold cyan]corgi demo[/bold cyan] trains everything on emoji and shows what came out.

    [bold cyan]corgi generate "a red apple, noto style" -n 4 --out apple.png[/bold cyan] draws.

    [bold cyan]corgi ui[/bold cyan] shows the lineage in Dagster and the runs in MLflow.

    [bold]Your own images[/bold]

    [bold cyan]corgi ingest ~/photos --format imagefolder --name photos[/bold cyan], then
    [bold cyan]corgi demo --dataset photos[/bold cyan]
    """,
)


@cli.command()
def demo(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Data, CLIP, Gaussians, priors, decoder, evaluation: do what is missing or changed."""
    settings = chosen_settings(preset, dataset)
    from orchestration.cli.run import demo

    raise typer.Exit(demo(settings))


@cli.command()
def study(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Compare many small priors: the paper's figures, sweeps and controls, over several seeds."""
    settings = chosen_settings(preset, dataset)
    from orchestration.cli.run import study

    raise typer.Exit(study(settings))


@cli.command()
def compare(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Train every kind of decoder, with captions and without, and compare what they draw.

    The paper's tables 1 and 2, in small. Hours on two cores; finished models are taken as they are.
    """
    settings = chosen_settings(preset, dataset)
    from orchestration.cli.run import compare

    raise typer.Exit(compare(settings))


@cli.command()
def results(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Show the tables of the last evaluation again."""
    settings = chosen_settings(preset, dataset)
    from rich.console import Console

    from orchestration.cli.results import show_results

    show_results(settings, Console(highlight=False))


cli.command()(generate)


@cli.command()
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
    settings = chosen_settings(preset, name)
    from corgi_core.data.ingest import ingest

    data = settings.preset.data
    folder = settings.dataset_folder / "raw_images"
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
        at = "" if preset is None else f" --preset {preset}"
        typer.echo(f"Next: corgi demo{at} --dataset {name}")


@cli.command()
def gate(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Pass ingested data through the quality gate; says what it refused."""
    settings = chosen_settings(preset, dataset)
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


@cli.command()
def ui(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    dagster_port: Annotated[
        int | None,
        typer.Option(help="Dagster's port; default: $CORGI_DAGSTER_PORT or 3000."),
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(help="MLflow's port; default: $CORGI_MLFLOW_PORT or 5000.")
    ] = None,
) -> None:
    """Serve Dagster (with its daemon) and MLflow on this machine, until Ctrl-C."""
    for name, port in (("CORGI_DAGSTER_PORT", dagster_port), ("CORGI_MLFLOW_PORT", mlflow_port)):
        if port is not None:
            os.environ[name] = str(port)
    settings = chosen_settings(preset, dataset)
    from orchestration.cli.servers import serve

    raise typer.Exit(serve(settings))


@cli.command()
def presets() -> None:
    """The presets side by side: what they are for and how large their parts are."""
    from rich.console import Console
    from rich.table import Column, Table

    from corgi_core.config import PRESETS

    table = Table(
        Column("preset", no_wrap=True), "source", "CLIP", "pixels", "prior", "decoders", "workers"
    )
    for name, preset in PRESETS.items():
        prior, decoder = preset.prior, preset.decoder
        table.add_row(
            name,
            preset.data.source,
            ", ".join(preset.encoders.clip),
            str(decoder.image_size) if decoder else "–",
            f"{prior.layers} × {prior.width}, {prior.training.steps:,} steps",
            ", ".join(f"{d.kind}, {d.training.steps:,} steps" for d in preset.decoders) or "–",
            str(preset.workers),
        )
    Console().print(table)


def app() -> None:
    """The program: 0 done, 1 a defect of Corgi's, 2 something the person can mend."""
    try:
        cli()
    except CorgiError as error:
        typer.secho(f"Error: {error.problem}. To mend it: {error.remedy}.", err=True, fg="red")
        sys.exit(2)
    except Exception as error:
        log = chosen_settings(None, None).state / "corgi.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        first_line = (str(error).splitlines() or [""])[0]
        typer.secho(f"Failed: {type(error).__name__}: {first_line}", err=True, fg="red")
        typer.secho(f"The details are in {log}", err=True)
        sys.exit(1)
