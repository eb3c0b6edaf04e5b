"""`corgi promote`, `rollback` and `history`: who is champion, by hand, and how it came to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console

from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)

if TYPE_CHECKING:
    from corgi_core.evaluation.promotion import Candidate
    from orchestration.resources.champions import Champions
    from orchestration.resources.model_registry import Registry
    from orchestration.resources.promotion_history import Entry
    from orchestration.settings import Settings

FractionOption = Annotated[
    str | None,
    typer.Option(
        "--fraction",
        help="The caption fraction, such as 1.7%, whose champion it is; default: `champion`, the "
        "best of all fractions.",
    ),
]


def promote(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A version's number or digest in the registry; or a variant, such as shifted-k16: "
            "its newest version of that caption fraction.",
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; the history has it.")],
    fraction: FractionOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even without validation scores of today's protocol.")
    ] = False,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Make a prior the champion by hand, whatever the gate says.

    The history says that it was by hand and why, with the numbers that the gate would have decided
    by. A model without validation scores of the latest evaluation is refused, unless forced.

    [bold cyan]corgi promote 7 --fraction 1.7% --reason "pictures look better"[/bold cyan]
    """
    from corgi_core.io.model_index import CHAMPION, champion_of
    from orchestration.resources.champions import version_named
    from orchestration.resources.promotion_history import Event

    settings = chosen_settings(preset, dataset, config, overrides)
    alias = CHAMPION if fraction is None else champion_of(fraction)
    subset = f"{fraction.removesuffix('%')}%" if fraction else None
    with _deciding(settings) as (registry, champions, restored):
        version = version_named(registry, model, subset)
        before = champions.present("prior", alias)
        numbers = _numbers(settings, registry, version, before, force)
        entries = champions.promote("prior", alias, version, Event.BY_HAND, reason, before, numbers)
    _print(restored + entries, f"{alias} is version {version} already")


def rollback(
    fraction: FractionOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; the history has it.")] = "by hand",
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Give a champion's title back to the prior that had it before.

    The gate never promotes a model again that was rolled back from; `corgi promote` does.

    [bold cyan]corgi rollback --fraction 1.7%[/bold cyan]
    """
    from corgi_core.io.model_index import CHAMPION, champion_of

    settings = chosen_settings(preset, dataset, config, overrides)
    alias = CHAMPION if fraction is None else champion_of(fraction)
    with _deciding(settings) as (_, champions, restored):
        entries = champions.roll_back(alias, reason)
    _print(restored + entries, "")


def history(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Show every promotion, refusal and rollback, with scores and reasons.

    Aliases that somebody deleted or moved in MLflow are named, and mended, first.
    """
    from corgi_core.errors import CorgiError
    from orchestration.resources.promotion_history import PROMOTIONS, History

    settings = chosen_settings(preset, dataset, config, overrides)
    try:
        with _deciding(settings):
            pass
    except CorgiError as error:
        typer.echo(f"Aliases were not compared with MLflow's: {error.problem}.", err=True)
    path = settings.state / PROMOTIONS
    entries = History(path).entries()
    if not entries:
        raise CorgiError(
            f"nothing was promoted yet in the workspace {settings.workspace}",
            "train and register models first, with `corgi run`",
        )
    show_history(entries, Console(highlight=False))
    typer.echo(f"The same with all numbers, a line each: {path}")


def show_history(entries: Sequence[Entry], console: Console) -> None:
    """Print entries as a table, the oldest first; why stands below each row, as it is long."""
    heads = ("when (UTC)", "champion", "decision", "model", "version")
    rows = [
        (
            each.moment[:16].replace("T", " "),
            each.alias if each.part == "prior" else f"{each.part} {each.alias}",
            str(each.event),
            each.model,
            each.version if each.before is None else f"{each.version} (was {each.before})",
        )
        for each in entries
    ]
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    console.print(line(heads), style="bold", markup=False, soft_wrap=True)
    for each, cells in zip(entries, rows, strict=True):
        console.print(line(cells), markup=False, soft_wrap=True)
        console.print(f"    {each.reason}", style="dim", markup=False, soft_wrap=True)


@contextmanager
def _deciding(settings: Settings) -> Iterator[tuple[Registry, Champions, list[Entry]]]:
    """The registry, its champions, which are locked meanwhile, and what had to be mended first.

    `models.json` is written wherever an alias may have moved: where the decision fails, it has what
    was mended.
    """
    from corgi_core.io.model_index import TextEncoderName
    from orchestration.resources.champions import Champions
    from orchestration.resources.model_registry import Registry
    from orchestration.resources.served_pipeline import register_pipeline
    from orchestration.resources.tracking import MLflow

    registry, encoders = Registry(MLflow.of(settings)), settings.preset.encoders
    champions = Champions(registry)
    with champions.deciding() as mended:
        try:
            yield registry, champions, mended
        finally:
            if champions.history.entries():
                text_encoder = TextEncoderName(encoders.text, encoders.text_tokens)
                registry.write_index(text_encoder)
                register_pipeline(registry, text_encoder)


def _numbers(
    settings: Settings, registry: Registry, version: str, before: str | None, force: bool
) -> dict[str, Any]:
    """What the gate would have decided by; CorgiError without scores, unless it is forced."""
    from corgi_core.errors import CorgiError
    from corgi_core.evaluation.promotion import decide

    challenger = _candidate(settings, registry, version)
    if challenger is None or challenger.scores is None:
        if force:
            return {}
        raise CorgiError(
            f"version {version} has no validation scores of the latest evaluation",
            "materialise `evaluation` (`corgi run`) with this model, or give --force",
        )
    champion = _candidate(settings, registry, before) if before else None
    if champion is None or champion.scores is None:
        return {"protocol": challenger.scores.protocol.digest}
    decision = decide([challenger], champion, {})
    return decision.numbers | {"gate": f"{decision.verdict}: {decision.reason}"}


def _candidate(settings: Settings, registry: Registry, version: str) -> Candidate | None:
    """A version with its scores in the latest evaluation; None where there is no evaluation."""
    from corgi_core.errors import CorgiError
    from corgi_core.evaluation.report import Evaluation
    from orchestration.resources.champions import candidate_of
    from orchestration.resources.workspace import Workspace

    try:
        evaluation = Evaluation.load(Workspace.of(settings).path_of("evaluation"))
    except CorgiError:
        return None
    return candidate_of(evaluation, version, registry.versions("prior")[version].tags)


def _print(entries: Sequence[Entry], otherwise: str) -> None:
    show_history(entries, Console(highlight=False)) if entries else typer.echo(otherwise)
