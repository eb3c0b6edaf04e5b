"""`corgi demo`: everything from raw data to pictures and a table, resumable at any point."""

from __future__ import annotations

import traceback
from typing import Any

from rich.console import Console
from rich.table import Table

from corgi_core.errors import CorgiError
from corgi_core.files import read_json
from orchestration.instance import open_instance
from orchestration.logs import LOG_FILE
from orchestration.screen import StepDisplay, own_screen
from orchestration.settings import Settings


def demo(settings: Settings) -> int:
    """Do what is missing or stale, then show the results; returns the exit code."""
    log = settings.state / LOG_FILE
    with own_screen(log) as console:
        try:
            done, seconds = _refresh(settings, console)
        except CorgiError as error:
            console.print(f"[red]Error:[/red] {error.problem}. To mend it: {error.remedy}.")
            return 2
        except KeyboardInterrupt:
            console.print("Interrupted. Run the same command again: it goes on from here.")
            return 130
        except Exception as error:
            traceback.print_exc()  # to the log
            console.print(f"[red]Failed:[/red] {type(error).__name__}: {_first_line(error)}")
            console.print(f"The details are in {log}")
            return 1
        console.print(f"\n{done} steps done in {seconds:.0f} s, the rest was unchanged.\n")
        show_results(settings, console)
    return 0


def _refresh(settings: Settings, console: Console) -> tuple[int, float]:
    with console.status("starting"):
        from orchestration.refresh import all_steps, materialize, only_one, reason_to_run

        instance = open_instance(settings)
        steps, done = all_steps(), 0
    console.print(f"Workspace [bold]{settings.workspace}[/bold], {len(steps)} steps")
    with only_one(instance), StepDisplay.on(console, len(steps)) as display:
        for step in steps:
            reason = reason_to_run(step, instance)
            if reason is None:
                display.unchanged(step.title)
                continue
            with display.doing(step.title, reason):
                materialize(step, instance)
            done += 1
        return done, display.seconds


def show_results(settings: Settings, console: Console) -> None:
    """The comparison, where the pictures are, and what to do next."""
    metrics = read_json(settings.reports / "metrics.json")
    console.print(prior_table(metrics))
    console.print(picture_table(metrics))
    console.print(f"Pictures and numbers: {settings.reports}")
    console.print("Next:")
    console.print('  [bold]corgi generate "a red apple, noto style" -n 4 --out apple.png[/bold]')
    console.print("  [bold]corgi ui[/bold]  the lineage in Dagster, the runs in MLflow")
    if settings.under_dvc:
        console.print("  [bold]dvc metrics show[/bold]")


def prior_table(metrics: dict[str, Any]) -> Table:
    """Held-out cosine at the preset's sampling steps, by variant and caption subset."""
    steps = metrics["protocol"]["prior_steps"]
    by_variant: dict[str, dict[str, Any]] = metrics["priors"]
    subsets = list(dict.fromkeys(subset for found in by_variant.values() for subset in found))
    table = Table(title=f"Held-out cosine at {steps} sampling steps", title_justify="left")
    table.add_column("prior")
    for subset in subsets:
        table.add_column(f"{subset} of the captions", justify="right")
    text = metrics["text_embedding"]["cosine"]
    table.add_row("(text embedding)", *(f"{text:.4f}" for _ in subsets))
    for variant, found in by_variant.items():
        table.add_row(variant, *(f"{found[s][str(steps)]['cosine']:.4f}" for s in subsets))
    return table


def picture_table(metrics: dict[str, Any]) -> Table:
    """Scores of the pictures decoded from each prior's embeddings."""
    rows = [
        (source, subset, scores)
        for source, found in metrics["pictures"].items()
        for subset, scores in found.items()
    ]
    names = [name for name in rows[0][2] if name not in ("seconds", "count")]
    table = Table(title=f"Pictures of {rows[0][2]['count']} held-out images", title_justify="left")
    for heading in ("embeddings", "captions", *names):
        table.add_column(heading.replace("_", " "), justify="right" if heading in names else "left")
    for source, subset, scores in rows:
        table.add_row(source, subset, *(f"{scores[name]:.4f}" for name in names))
    return table


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
