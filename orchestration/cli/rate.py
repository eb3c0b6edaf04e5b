"""`corgi rate`: people compare models' pictures on a page, and what their votes say."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from corgi_core.rating.server import RatingPage
    from corgi_core.rating.votes import VoteStore


def rate(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that `corgi suite` made.")
    ],
    results: Annotated[
        bool, typer.Option("--results", help="Show what the votes say, and serve nothing.")
    ] = False,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Compare this model; give it two to four times. Default: all."
        ),
    ] = None,
    kind: Annotated[
        Literal["pairs", "ranking"] | None,
        typer.Option(
            "--by",
            help="Two pictures at once, or one of every model to be ranked. Default: pairs of two "
            "models, rankings of more.",
        ),
    ] = None,
    questions: Annotated[
        int, typer.Option(min=1, help="How many comparisons a rater is asked for, at most.")
    ] = 60,
    votes: Annotated[
        Path | None, typer.Option(help="The file of the votes; default: votes.sqlite in FOLDER.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where the page is served, on this machine alone.")
    ] = 8123,
    public_names: Annotated[
        list[str] | None,
        typer.Option(
            "--public-name", help="A host name under which your proxy or tunnel serves the page."
        ),
    ] = None,
) -> None:
    """Have people compare models' pictures, blind, and show what their votes say.

    [bold cyan]corgi rate .corgi/emoji/suites/PartiPrompts[/bold cyan]  serves the page until Ctrl-C

    [bold cyan]corgi rate FOLDER --model ours --model sd2 --model lafite[/bold cyan]  ranks of three

    [bold cyan]corgi rate FOLDER --results[/bold cyan]  win rates, strengths, agreement, raters

    Raters see pictures without the models' names, in an order of their own, and say which shows the
    text better and which is better made. Votes are in one file, each counted once. Stop and start
    the page as you like: everyone goes on where they were.
    """
    from corgi_core.rating.votes import VOTES_FILE, VoteStore

    store = VoteStore(votes or folder / VOTES_FILE)
    if results:
        _show(store)
        return
    from corgi_core.rating.server import RatingPage, serve
    from corgi_core.rating.survey import Survey
    from corgi_core.suites.folder import SuiteFolder

    pictures = SuiteFolder.load(folder)
    survey = Survey.of(pictures, models or [], kind, questions)
    page = RatingPage(pictures, VoteStore.create(store.path, survey), public_names or [])
    try:
        serve(page.app(), port, lambda address: _announce(page, address))
    except KeyboardInterrupt:
        typer.echo(f"{len(store.votes()):,} votes are in {store.path}")
        typer.echo(f"What they say: corgi rate {shlex.quote(str(folder))} --results")


def _show(store: VoteStore) -> None:
    """Print what the votes say, and write it beside them; by their file's name if it is another."""
    from corgi_core.rating.results import TABLE, results_of
    from corgi_core.rating.votes import VOTES_FILE

    found, folder = results_of(store.votes()), store.path.parent
    prefix = "" if store.path.name == VOTES_FILE else f"{store.path.stem}-"
    found.save(folder, prefix)
    typer.echo(found.markdown())
    typer.echo(
        f"The table is in {folder / f'{prefix}{TABLE}'}, all votes and numbers are beside it"
    )


def _announce(page: RatingPage, address: str) -> None:
    survey = page.survey
    typer.echo(
        f"{address}: {len(survey.questions)} questions by {survey.kind} on "
        f"{', '.join(survey.models)}; {len(page.store.votes()):,} votes so far"
    )
    typer.echo("Ctrl-C stops the page; votes are stored as they come.")
