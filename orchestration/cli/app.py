"""The program `corgi`: its command groups, assembled.

Commands import what they need when they run, so that help is instant.
"""

from __future__ import annotations

import codecs
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from orchestration.cli import (
    backup,
    compare_runs,
    config,
    data,
    drill,
    gc,
    generate,
    home,
    metrics,
    promotion,
    propose,
    rate,
    results,
    retrain,
    run,
    serve,
    suite,
    ui,
)
from orchestration.cli.errors import CommandGroup
from orchestration.environment import restart_if_incomplete

PLAIN = "corgi-plain"  # the error handler of the output's encoding
PLAIN_SIGNS = {
    "×": "x", "–": "-", "…": "...", "±": "+-", "·": "-", "✓": "+", "→": "->", "━": "-", "╸": "-",
}  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"corgi {version('corgi')}")
        raise typer.Exit


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

    [bold cyan]corgi serve[/bold cyan] serves a page to play with, and an API.

    [bold cyan]corgi ui[/bold cyan] shows the lineage in Dagster and the runs in MLflow.

    [bold]Your own images[/bold]

    [bold cyan]corgi ingest ~/photos --format imagefolder --name photos[/bold cyan] reads them.

    [bold cyan]corgi run --dataset photos[/bold cyan] trains on them.

    [bold cyan]corgi run --dataset photos --set prior.layers=12[/bold cyan] changes a setting.
    """,
)
for command in (
    run.demo, run.run, retrain.retrain, run.study, run.compare, results.results,
    compare_runs.compare_runs, generate.generate, serve.serve, suite.suite, rate.rate,
    metrics.metrics, promotion.promote, promotion.rollback, promotion.history, propose.propose,
    data.ingest, data.gate, ui.ui, ui.password, home.home, backup.backup, backup.restore, gc.gc,
    config.presets,
):  # fmt: skip
    cli.command()(command)
cli.add_typer(config.config, name="config")
cli.add_typer(drill.drill, name="drill")


@cli.callback()
def corgi(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print Corgi's version."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


def app() -> None:
    """Run the command line of this process, and exit with the command's exit code."""
    restart_if_incomplete()
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=PLAIN)
    cli()


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What a terminal shows for a sign that it does not have."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(PLAIN_SIGNS.get(sign, "?") for sign in signs), error.end
