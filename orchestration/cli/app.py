"""The program `corgi`: its command groups, assembled.

Commands import what they need when they run, so that help is instant.
"""

from __future__ import annotations

import sys

import typer

from orchestration.cli import config, data, generate, results, run, ui
from orchestration.cli.errors import CommandGroup

cli = typer.Typer(
    name="corgi",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Shifted diffusion for text-to-image generation, from raw data to pictures.

    [bold]Start here[/bold]

    [bold cyan]corgi demo[/bold cyan] trains everything on emoji and shows the results.

    [bold cyan]corgi generate "a red apple, noto style" -n 4 --out apple.png[/bold cyan] samples.

    [bold cyan]corgi ui[/bold cyan] shows the lineage in Dagster and the runs in MLflow.

    [bold]Your own images[/bold]

    [bold cyan]corgi ingest ~/photos --format imagefolder --name photos[/bold cyan], then
    [bold cyan]corgi run --dataset photos[/bold cyan]
    """,
)
for command in (
    run.demo, run.run, run.study, run.compare, results.results, generate.generate,
    data.ingest, data.gate, ui.ui, config.presets,
):  # fmt: skip
    cli.command()(command)
cli.add_typer(config.config, name="config")


def app() -> None:
    """Run the command line of this process, and exit with the command's exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without a sign shows "?" for it
        stream.reconfigure(errors="replace")
    cli()
