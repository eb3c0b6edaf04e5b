"""The command line. Every command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corgi_core.errors import CorgiError

if TYPE_CHECKING:
    from orchestration.settings import Settings

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

PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="A row of `corgi presets`; default: $CORGI_PRESET or emoji."),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Your own data, by the name given to `corgi ingest --name`."),
]


@cli.command()
def demo(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Data, CLIP, Gaussians, priors, decoder, evaluation: do what is missing or changed."""
    settings = _settings(preset, dataset)
    from orchestration.cli.run import demo

    raise typer.Exit(demo(settings))


@cli.command()
def study(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Compare many small priors: the paper's figures, sweeps and controls, over several seeds."""
    settings = _settings(preset, dataset)
    from orchestration.cli.run import study

    raise typer.Exit(study(settings))


@cli.command()
def compare(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Train every kind of decoder, with captions and without, and compare what they draw.

    The paper's tables 1 and 2, in small. Hours on two cores; finished models are taken as they are.
    """
    settings = _settings(preset, dataset)
    from orchestration.cli.run import compare

    raise typer.Exit(compare(settings))


@cli.command()
def results(preset: PresetOption = None, dataset: DatasetOption = None) -> None:
    """Show the tables of the last evaluation again."""
    settings = _settings(preset, dataset)
    from rich.console import Console

    from orchestration.cli.results import show_results

    show_results(settings, Console(highlight=False))


@cli.command()
def generate(
    captions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CAPTION]", help="What to draw, in words."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("-i", "--image", help="A picture to start from; give it twice for two."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", help="How many pictures; default: 1, on a way 8."),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            help="How far an image goes, 0 to 1; default: 0.5 to a caption, 0.35 between two."
        ),
    ] = None,
    nearest: Annotated[
        int,
        typer.Option(
            min=0, help="Show so many nearest training images beside each picture, by CLIP."
        ),
    ] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="The PNG to write; on a way, a GIF is a film of it.")
    ] = Path("picture.png"),
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Sampling steps of the decoder; default: its own."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance of the decoder, 1 is none; default: its own."),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="An alias in the registry, or a model folder as ./prior; default: the champion."
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="A kind, such as gan, another alias, such as captions-10, or a model folder as "
            "./gan; default: the champion."
        ),
    ] = None,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
) -> None:
    """Draw captions and images with the champions of the model registry.

    What you give decides what is drawn:

    [bold cyan]corgi generate "a red apple" -n 4[/bold cyan]  pictures of a caption

    [bold cyan]corgi generate -i cat.png -n 4[/bold cyan]  variations of an image

    [bold cyan]corgi generate -i cat.png "a crown"[/bold cyan]  between an image and a caption

    [bold cyan]corgi generate "a cat" "a dog" --out way.gif[/bold cyan]  the way between captions

    [bold cyan]corgi generate -i cat.png -i dog.png --out way.gif[/bold cyan]  … between images

    [bold cyan]corgi generate -i cat.png "a cat" "a dog"[/bold cyan]  an image on its way,
    changing as the second caption differs from the first

    [bold cyan]--nearest 3[/bold cyan] shows what the models may have by heart.
    The file's metadata keep the settings.
    """
    settings = _settings(preset, dataset)
    from orchestration.cli.generate import draw

    said = draw(
        settings, captions or [], images or [], out, count=count, weight=weight, nearest=nearest,
        seed=seed, steps=steps, guidance=guidance, prior=prior, decoder=decoder,
    )  # fmt: skip
    typer.echo(said)


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
    settings = _settings(preset, name)
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
    settings = _settings(preset, dataset)
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
    settings = _settings(preset, dataset)
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


def _settings(preset: str | None, dataset: str | None) -> Settings:
    """Options win over the environment; child processes inherit them."""
    if preset is not None:
        os.environ["CORGI_PRESET"] = preset
    if dataset is not None:
        os.environ["CORGI_DATASET"] = dataset
    from orchestration.settings import settings

    return settings()


def app() -> None:
    """The program: 0 done, 1 a defect of Corgi's, 2 something the person can mend."""
    try:
        cli()
    except CorgiError as error:
        typer.secho(f"Error: {error.problem}. To mend it: {error.remedy}.", err=True, fg="red")
        sys.exit(2)
    except Exception as error:
        log = _settings(None, None).state / "corgi.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        first_line = (str(error).splitlines() or [""])[0]
        typer.secho(f"Failed: {type(error).__name__}: {first_line}", err=True, fg="red")
        typer.secho(f"The details are in {log}", err=True)
        sys.exit(1)
