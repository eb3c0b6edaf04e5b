"""The tables of an evaluation and of a study, as the terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from corgi_core.errors import CorgiError
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
    options_of,
)

if TYPE_CHECKING:
    from orchestration.settings import Settings

STUDY_WIDTH = 150  # columns of the study's tables; a narrower terminal breaks their lines
STUDY_TABLES = {
    "steps": "Held-out quality by sampling steps",
    "gaussians": "One Gaussian or many",
    "shift_and_scale": "The shift and the scale, each alone and both",
    "contributions": "What each brings, paired by seed",
}


def results(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Show the tables of the last evaluation again."""
    show_results(chosen_settings(preset, dataset, config, overrides), Console(highlight=False))


def show_results(settings: Settings, console: Console) -> None:
    """The comparison, where the pictures are, and what to do next."""
    from corgi_core.io.files import read_json

    path = settings.reports / "metrics.json"
    if not path.exists() and _is_without_captions(settings):
        console.print("These data have no captions: a decoder was trained, and no prior.")
        console.print("Next:")
        draw = f'corgi generate{options_of(settings)} "a red apple" --prior FOLDER'
        console.print(f"  [bold]{draw}[/bold]  a prior of other data with the same CLIP encoders")
        return
    if not path.exists():
        raise CorgiError(
            f"the workspace {settings.workspace} has no evaluation yet", "run `corgi run` first"
        )
    metrics = read_json(path)
    console.print(prior_table(metrics))
    options = options_of(settings)
    if settings.preset.decoder is None:
        console.print(f"Curves and numbers: {settings.reports}")
        console.print("Next:")
        console.print(f"  [bold]corgi study{options}[/bold]  many small priors compared")
    else:
        console.print(picture_table(metrics))
        console.print(f"Pictures and numbers: {settings.reports}")
        console.print("Next:")
        draw = f'corgi generate{options} "a red apple, noto style" -n 4 --out apple.png'
        console.print(f"  [bold]{draw}[/bold]")
    console.print(f"  [bold]corgi ui{options}[/bold]  lineage in Dagster, runs in MLflow")
    if settings.under_dvc:
        console.print("  [bold]dvc metrics show[/bold]")


def _is_without_captions(settings: Settings) -> bool:
    kind = settings.preset.decoder
    drawn = kind is not None and (settings.storage / "decoder" / kind.kind).exists()
    return drawn and not (settings.storage / "evaluation").exists()


def show_study(settings: Settings, console: Console) -> None:
    """The study's main tables, and where all of them and the pictures are."""
    folder = settings.reports / "study"
    wide = Console(file=console.file, width=STUDY_WIDTH, highlight=False)
    for name, title in STUDY_TABLES.items():
        markdown = (folder / "tables" / f"{name}.md").read_text(encoding="utf-8")
        wide.print(_table(f"\n{title}, ± half the 95 % interval", markdown))
    console.print(f"All tables, pictures and numbers: {folder}")


def show_comparison(settings: Settings, console: Console) -> None:
    """The comparison's tables, and where they and the pictures are."""
    folder = settings.reports / "comparison"
    wide = Console(file=console.file, width=STUDY_WIDTH, highlight=False)
    for path in sorted((folder / "tables").glob("*.md"), reverse=True):
        title = path.stem.replace("_", "-").capitalize()
        text = path.read_text(encoding="utf-8")
        wide.print(_table(f"\n{title}, ± half the 95 % interval over the sampling's seeds", text))
    console.print(f"All tables, pictures and numbers: {folder}")


def _table(title: str, markdown: str) -> Table:
    heads, _, *rows = [line.strip("| ").split(" | ") for line in markdown.splitlines()]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


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
        cosines = [found[s][str(steps)]["cosine"] if s in found else None for s in subsets]
        table.add_row(variant, *("–" if c is None else f"{c:.4f}" for c in cosines))
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
