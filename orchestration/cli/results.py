"""The tables of an evaluation and of a study, as the terminal shows them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    from pathlib import Path

    from orchestration.settings import Settings

ZERO_SHOT = "zero_shot"  # the reports' folder of the evaluation on another dataset
GAP = 2  # columns between the columns of a table
NOTHING = "–"  # a score that a row does not have
PRIOR_SCORES = {"cosine": "cosine", "recall_at_5": "recall at 5"}
PICTURE_SCORES = {  # the columns of the screen's table, where they were measured
    "clip_similarity_image": "similar to image",
    "clip_similarity_text": "to caption",
    "fid": "FID",
    "fid_bias": "FID's bias",
    "frechet_clip": "Fréchet (CLIP)",
    "frechet_clip_bias": "its bias",
    "frechet_dinov2": "Fréchet (DINOv2)",
    "frechet_dinov2_bias": "its bias",
    "copies": "copies",
}
CAPTIONS = 1000  # among which the shortest is an example
STUDY_TABLES = {
    "steps": "Validation quality by sampling steps",
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

    path, options = settings.reports / "metrics.json", options_of(settings)
    if not path.exists() and _is_without_captions(settings):
        _print(console, "These data have no captions: a decoder was trained, and no prior.")
        _print(console, "Next, with a prior of other data that has the same CLIP encoders:")
        _print(console, f"  corgi generate{options} CAPTION --prior FOLDER", "bold")
        return
    if not path.exists():
        raise CorgiError(
            f"the workspace {settings.workspace} has no evaluation yet",
            f"run `corgi run{options}` first",
        )
    metrics, page = read_json(path), path.with_name("report.html")
    print_priors(metrics, console)
    _print_champions(settings, console)
    if settings.preset.decoder is None:
        _print(console, f"Curves and numbers: {settings.reports}")
        _print(console, "Next, many small priors compared:")
        _print(console, f"  corgi study{options}", "bold")
    else:
        print_pictures(metrics, console)
        print_published(metrics, console)
        if settings.preset.zero_shot is not None:
            _show_zero_shot(settings.reports / ZERO_SHOT / "metrics.json", console)
        _print(console, f"Pictures and numbers: {settings.reports}")
        _print(console, "Next, images of a caption:")
        caption = shlex.quote(example_caption(settings))
        _print(console, f"  corgi generate{options} {caption} -n 4", "bold")
    if page.exists():
        _print(console, f"All of it on one page, for a browser or to send: {page}")
    _print(console, "The lineage in Dagster and the runs in MLflow:")
    _print(console, f"  corgi ui{options}", "bold")
    if settings.under_dvc:
        _print(console, "The metrics under DVC:")
        _print(console, "  dvc metrics show", "bold")


def _print_champions(settings: Settings, console: Console) -> None:
    """Which priors are in use, by caption fraction, and since when."""
    from orchestration.resources.promotion_history import PROMOTIONS, History

    history = History(settings.state / PROMOTIONS)
    champions = history.present("prior")
    if not champions:
        return
    _print(console, "Champions (`corgi history` says why, docs/promotion.md what the gate asks):")
    for alias, entry in champions.items():
        line = (
            f"  {alias}: {entry.model}, version {entry.version}, {entry.event} {entry.moment:.10}"
        )
        _print(console, line)
    console.print()


def example_caption(settings: Settings) -> str:
    """A caption of the kind that the models know: a short one of the data at hand."""
    if settings.own_dataset is None and settings.preset.data.source == "emoji":
        return "a red apple, noto style"
    from corgi_core.data.dataset import Dataset

    images = Dataset.load(settings.dataset_folder / "images")
    every = (rows["captions"].dropna() for rows in images.iter_rows("captions"))
    captions = chain.from_iterable(chain.from_iterable(every))
    return min(islice(captions, CAPTIONS), key=len, default="CAPTION")


def _is_without_captions(settings: Settings) -> bool:
    kind = settings.preset.decoder
    trained = kind is not None and (settings.storage / "decoder" / kind.kind).exists()
    return trained and not (settings.storage / "evaluation").exists()


def show_study(settings: Settings, console: Console) -> None:
    """The study's main tables, and where all of them and the pictures are."""
    folder = settings.reports / "study"
    for name, title in STUDY_TABLES.items():
        if (path := folder / "tables" / f"{name}.md").exists():  # of a sweep that was chosen
            markdown = path.read_text(encoding="utf-8")
            _print_markdown(console, f"{title}, ± half the 95 % interval", markdown)
    _print(console, f"All tables, pictures and numbers: {folder}")


def _show_zero_shot(path: Path, console: Console) -> None:
    """The tables of the evaluation on another dataset, and what was left out of it."""
    from corgi_core.io.files import read_json

    if not path.exists():
        return
    metrics = read_json(path)
    about = metrics["protocol"]["zero_shot"]
    _print(
        console,
        f"Zero-shot on {about['dataset']}, without {about['overlapping']} of {about['images']} "
        "test images that are in the training data:",
    )
    print_priors(metrics, console)
    print_pictures(metrics, console)
    print_published(metrics, console)


def show_comparison(settings: Settings, console: Console) -> None:
    """The comparison's tables, and where they and the pictures are."""
    folder = settings.reports / "comparison"
    for path in sorted((folder / "tables").glob("*.md"), reverse=True):
        title = path.stem.replace("_", "-").capitalize()
        title = f"{title}, ± half the 95 % interval over the sampling's seeds"
        _print_markdown(console, title, path.read_text(encoding="utf-8"), names=3)
    _print(console, f"All tables, pictures and numbers: {folder}")


def print_priors(metrics: dict[str, Any], console: Console) -> None:
    """Test cosine and recall at the preset's sampling steps: the baselines, then each prior.

    The last row has the highest score of any row whose predictions were compared with the images of
    other captions: what lies below it is chance.
    """
    from corgi_core.evaluation.protocol import Protocol
    from corgi_core.evaluation.report import BASELINES

    if "baselines" not in metrics:
        raise CorgiError(
            "the evaluation was written by an older version of Corgi: it has no baselines",
            "run `corgi run` again",
        )
    protocol = Protocol.stored_in(metrics)
    steps = str(protocol.prior_steps)
    first = _ordered(metrics["baselines"], BASELINES)
    rows = [(name, NOTHING, scores) for name, scores in first.items()]
    for variant, found in metrics["priors"].items():
        rows += [(f"prior {variant}", subset, scores[steps]) for subset, scores in found.items()]
    title = f"Test captions at {steps} sampling steps, ± half the 95 % interval"
    _print_scores(console, title, "row", rows, PRIOR_SCORES)
    _print(console, protocol.line)
    console.print()


def _print_scores(
    console: Console,
    title: str,
    kind: str,
    rows: Sequence[tuple[str, str, dict[str, Any]]],
    columns: dict[str, str],
) -> None:
    """A table of rows (name, captions, scores): one line each, and one for all controls."""
    from corgi_core.evaluation.report import SHUFFLED

    lines = [[name, subset, *(_score(s, each) for each in columns)] for name, subset, s in rows]
    controls = [scores[SHUFFLED] for _, _, scores in rows if SHUFFLED in scores]
    if controls:
        highest = [max(controls, key=lambda each: each.get(name, -inf)) for name in columns]
        cells = [_score(each, name) for each, name in zip(highest, columns, strict=True)]
        lines.append([f"{SHUFFLED} captions, the highest", NOTHING, *cells])
    print_table(console, title, [kind, "captions", *columns.values()], lines, names=2)


def _ordered(rows: dict[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """The same rows, those of `first` before the others."""
    return {name: rows[name] for name in [*first, *rows] if name in rows}


def _score(scores: dict[str, Any], name: str) -> str:
    from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW

    if name not in scores:
        return NOTHING
    if name + CI_LOW not in scores:
        return f"{scores[name]:.3f}"
    return f"{scores[name]:.3f} ± {(scores[name + CI_HIGH] - scores[name + CI_LOW]) / 2:.3f}"


def print_pictures(metrics: dict[str, Any], console: Console) -> None:
    """The main scores of the pictures decoded from each row's embeddings; the page has all."""
    from corgi_core.evaluation.report import PICTURE_BASELINES, REAL_EMBEDDING

    sources = _ordered(metrics["pictures"], (*PICTURE_BASELINES, REAL_EMBEDDING))
    rows = [
        (source, subset.replace("none", NOTHING), scores)
        for source, found in sources.items()
        for subset, scores in found.items()
    ]
    have = set().union(*(scores for _, _, scores in rows))
    columns = {name: title for name, title in PICTURE_SCORES.items() if name in have}
    count = max(scores["count"] for _, _, scores in rows)  # real against real has half of them
    title = f"Pictures of {count} test images, ± half the 95 % interval"
    _print_scores(console, title, "embeddings", rows, columns)


def print_published(metrics: dict[str, Any], console: Console) -> None:
    """What papers report under the evaluation's protocol, where it has a name that they use."""
    from corgi_core.evaluation.protocol import Protocol
    from corgi_core.evaluation.published import published_under

    protocol = Protocol.stored_in(metrics).name
    scored = [scores for found in metrics["pictures"].values() for scores in found.values()]
    if found := published_under(protocol, set().union(*scored)):
        rows = [[each.model, each.metric, f"{each.value:.2f}", each.source] for each in found]
        title = f"Published under the protocol {protocol}: not measured here"
        print_table(console, title, ["published", "score", "value", "source"], rows)


def print_table(
    console: Console,
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    names: int = 1,
) -> None:
    """Print a table whose first `names` columns name its rows; no cell is broken or cut.

    Where the console is too narrow for all columns, the table comes in parts, one below the other,
    each with the names.
    """
    widths = [
        GAP + max(map(cell_len, [*head.split(), *(row[column] for row in rows)]))
        for column, head in enumerate(heads)
    ]
    parts: list[list[int]] = [[]]
    for column in range(names, len(heads)):
        taken = sum(widths[:names]) + sum(widths[other] for other in parts[-1])
        if parts[-1] and taken + widths[column] > console.width:
            parts.append([])
        parts[-1].append(column)
    for number, part in enumerate(parts):
        table = Table(
            title=Text(title),
            title_justify="left",
            box=SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        for column in [*range(names), *part]:
            table.add_column(
                Text(heads[column]),
                justify="left" if column < names else "right",
                no_wrap=column < names,
                min_width=widths[column] - GAP,
            )
        for row in rows:
            if len(parts) > 1 and all(row[column] == NOTHING for column in part):
                continue  # it says nothing in this part
            table.add_row(*(Text(row[column]) for column in [*range(names), *part]))
        if number:
            table.title = None
        console.print(table)
        console.print()


def _print_markdown(console: Console, title: str, markdown: str, names: int = 1) -> None:
    """A table whose first columns name a row, and below it what the file says: the protocol."""
    lines = markdown.splitlines()
    heads, _, *rows = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in lines if line.startswith("|")
    ]
    print_table(console, title, heads, rows, names)
    for line in lines:
        if line and not line.startswith("|"):
            _print(console, line)


def _print(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is, whatever signs are in it and however long it is."""
    console.print(line, style=style, markup=False, soft_wrap=True)
