"""`corgi suite`: pictures of all prompts of a suite, by any number of models, and their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestration.cli.data import progress
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)


def suite(
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="A TSV, CSV or text file of prompts.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[NAME=]SOURCE",
            help="A workspace (emoji), one with an alias (emoji@gan) or a saved pipeline (./NAME); "
            "add ,prior=FOLDER or ,decoder=FOLDER for another part. Or the folder of a diffusers "
            "text-to-image pipeline. Give it once for each model; "
            "default: the workspace's champions.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="How many pictures of each prompt.")
    ] = 4,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder; default: suites/PROMPTS in the workspace's state."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The first picture's seed; the next has the next number.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps of the decoder; default: its own.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance of the decoder; default: its own.")
    ] = None,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Make pictures of all prompts of a suite, and pages that show the models side by side.

    [bold cyan]corgi suite PartiPrompts.tsv -n 4[/bold cyan]  by the workspace's champions

    [bold cyan]corgi suite drawbench.csv --model emoji --model gan=emoji@gan[/bold cyan]
    two models; run it again with another --model, and its pictures join these

    [bold cyan]corgi suite drawbench.csv --model sd=./stable-diffusion-2-base[/bold cyan]
    a diffusers pipeline, with its own defaults for all that is not given here

    A table needs a column Prompt, and may have Category and Challenge, as PartiPrompts and
    DrawBench do; of a text file each line is a prompt. Pictures that are there stay, so an
    interrupted run goes on where it was. The folder has MODEL/PROMPT/SEED.png; put pictures of
    other programs beside them in the same way. Then people can compare them: `corgi rate FOLDER`.
    """
    from corgi_core.devices import Device
    from corgi_core.suites.folder import SuiteFolder
    from corgi_core.suites.gallery import write_gallery
    from corgi_core.suites.models import ModelSource, check_sources
    from corgi_core.suites.pictures import make_pictures
    from corgi_core.suites.prompts import read_suite

    settings, read = chosen_settings(preset, dataset, config, overrides), read_suite(prompts)
    sources = [ModelSource.of(model) for model in models or [settings.workspace]]
    check_sources(sources, settings.home)
    folder = SuiteFolder.create(out or settings.suites / read.name, read)
    seeds = range(seed, seed + count)
    with progress():
        for source in sources:
            pipeline = source.load(settings.home).to(
                Device().here(), settings.preset.inference_precision
            )
            made = make_pictures(folder, source.name, pipeline, seeds, steps, guidance)
            del pipeline  # before the next one is loaded
            typer.echo(
                f"{source.name}: {made:,} pictures made, {len(read.prompts) * count:,} there"
            )
        typer.echo(f"To look at: {write_gallery(folder, seeds)}")
    typer.echo(f"To have people compare the models: corgi rate {folder.path}")
