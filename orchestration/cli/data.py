"""`corgi ingest` and `corgi gate`: from people's files to data that can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

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
    from corgi_core.config import Preset
    from corgi_core.data.dataset import Dataset

GENERAL = ("imagefolder", "webdataset")  # formats whose readers misread some datasets' own layouts
MOST_REASONS = 10  # lines of the summary
TESTED_ON_VALIDATION = " (the data's own validation split: they have no test split)"


def ingest(
    path: Annotated[
        str | None,
        typer.Argument(help="A folder, or tar shards; none for the preset's own source."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="imagefolder, webdataset, img2dataset, coco, cub, narratives, celeba, embeddings "
            "emoji or emoji-full; the datasets' own layouts are recognised without it.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What to call the dataset; its folder is data/NAME."),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(help="The caption's column in metadata.jsonl/.csv or key in .json."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Start anew, instead of adding to what is there."),
    ] = False,
    by_reference: Annotated[
        bool,
        typer.Option(
            "--by-reference", help="Leave tar shards where they are, and read them there."
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Read again only the files and tars that could not be read."
        ),
    ] = False,
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Read images and captions into shards and manifests, bytes untouched.

    Data that are new are added to what is there: shards that are there stay as they are. An image
    whose bytes or key are there already is passed over. Says how many images and captions there
    are, and what was passed over and why. The layouts:

    [bold cyan]corgi ingest ~/photos --format imagefolder --name photos[/bold cyan]
    photos/cat.png with photos/cat.txt (or .caption, .json) beside it, or with one table
    photos/metadata.csv (or .tsv, .jsonl, .json, .parquet) of file_name and text. Folders called
    train, test or val give the split; val counts as test.

    [bold cyan]corgi ingest "shards/{000..099}.tar" --format webdataset --name web[/bold cyan]
    WebDataset tars, or a folder of them: cat.jpg with cat.txt or cat.json. With --by-reference
    nothing is copied: each tar is a shard where it is, and must stay as it is.

    [bold cyan]corgi ingest --name web --retry-failed[/bold cyan]
    Reads again what earlier ingests could not read: damaged tars that are whole by now, files that
    may be read now.

    [bold cyan]corgi ingest clip.parquet --format embeddings --name clip --preset embeddings
    [/bold cyan]
    Precomputed CLIP embeddings: Parquet with key, text and lists of floats, or .npy with a table
    of keys beside it, as clip-retrieval writes them.

    Datasets as they are downloaded; the format is recognised, or named by --format:

    [bold cyan]corgi ingest ~/coco --name coco[/bold cyan]
    coco: annotations/captions_train2017.json beside train2017/; the same for val2017, or 2014.
    cub: CUB_200_2011/ with text_c10/ or text/ in it or beside it.
    narratives: coco_train_captions.jsonl and the like, with their images beside.
    celeba: images/0.jpg, text/celeba-caption/0.txt, train.txt and test.txt.
    img2dataset: 00000.tar beside 00000.parquet, as of CC3M, CC12M and LAION.
    """
    if retry_failed and (path is not None or replace or by_reference):
        raise CorgiError(
            "--retry-failed reads what earlier ingests could not, as they did",
            "give it with --name alone",
        )
    if path is not None:
        format = _format_of(path, format)
    if path is not None and name is None:
        raise CorgiError(f"what to call the dataset of {path} is not said", "add --name NAME")
    settings = chosen_settings(preset, name, config, overrides)
    settings.check_stores()
    from corgi_core.data import ingest as ingests
    from corgi_core.data.dataset import Dataset, check_dataset_folder, is_dataset
    from corgi_core.io.files import is_local

    data = settings.preset.data
    folder = settings.dataset_folder / "raw_images"
    for written in (folder, settings.dataset_folder / "images"):
        check_dataset_folder(written)
    before = 0 if replace or not is_dataset(folder) else len(Dataset.load(folder))
    try:
        with progress():
            if retry_failed:
                raw = ingests.retry_failed(folder, data, settings.preset.seed)
            else:
                raw = ingests.ingest(
                    format or data.source, path, folder, data, settings.preset.seed, caption_column,
                    replaced=replace, by_reference=by_reference,
                )  # fmt: skip
    except CorgiError:
        if is_local(settings.data):
            with suppress(OSError):  # what is not empty stays
                settings.dataset_folder.rmdir()
                settings.data.rmdir()
        raise
    for line in _summary(raw, before):
        typer.echo(line)
    _warn_of_too_few(raw, settings.preset)
    if name is not None:
        typer.echo(f"Next: corgi run{options_of(settings)}")


def gate(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Pass ingested data through the quality gate; says what it refused and moved."""
    settings = chosen_settings(preset, dataset, config, overrides)
    settings.check_stores()
    from corgi_core.data.dataset import Dataset
    from corgi_core.data.expectations import check_manifest
    from corgi_core.data.quality import gate, quarantine_summary

    raw = Dataset.load(settings.dataset_folder / "raw_images")
    with progress():
        images = gate(raw, settings.dataset_folder / "images", settings.preset.data)
    actions, _ = quarantine_summary(images)
    typer.echo(
        f"{images.folder}: {len(images):,} images, {actions['normalised']:,} normalised, "
        f"{actions['quarantined']:,} quarantined, {actions['moved']:,} moved into the split of a "
        "near twin (quarantine/ says why)"
    )
    if failures := check_manifest(images.iter_rows).failures:
        raise CorgiError(
            f"the gated data do not meet the expectations: {'; '.join(failures)}",
            "mend the data and ingest them again with --replace",
        )
    _warn_of_too_few(images, settings.preset)


def _format_of(path: str, named: str | None) -> str:
    """The format to read `path` by: the one that is named, or the one whose layout is there.

    Says which it is, and warns where a general one is named though the layout has its own reader.
    """
    from corgi_core.data.formats.layouts import LAYOUTS, layout_at
    from corgi_core.data.ingest import path_to

    if named is not None and named not in GENERAL:
        return named
    found = layout_at(path_to(path))
    if found is not None:
        layout = f"{path} has the layout of {LAYOUTS[found].title}"
        if named is None:
            typer.echo(f"{layout}: it is read by --format {found}")
            return found
        fix = f"--format {found} reads all of it"
        typer.secho(
            f"Warning: {layout}, of which {named} may miss parts. Fix: {fix}.",
            err=True,
            fg="yellow",
        )
    if named is None:
        raise CorgiError(
            f"how to read {path} is not said",
            "add --format imagefolder, webdataset, embeddings or a dataset's own "
            f"({', '.join(LAYOUTS)}), and --name NAME",
        )
    return named


def _summary(raw: Dataset, before: int) -> Iterator[str]:
    """What is there now, and what was passed over: a line a reason, the most frequent first.

    `before`: how many images were there before.
    """
    from corgi_core.data.ingest import iter_skipped
    from corgi_core.data.skipped import by_reason
    from corgi_core.data.splits import TEST, TRAIN, VALIDATION

    counts = raw.counts
    splits = counts.groupby("split")["images"].sum()
    tested_on_validation = raw.owners_splits == [TRAIN, VALIDATION]
    yield (
        f"{raw.folder}: {len(raw):,} images, {counts['captioned'].sum():,} with captions "
        f"({counts['captions'].sum():,} captions); {splits.get(TRAIN, 0):,} for training, "
        f"{splits.get(VALIDATION, 0):,} for validation, {splits.get(TEST, 0):,} for testing"
        + (TESTED_ON_VALIDATION if tested_on_validation else "")
    )
    if (added := len(raw) - before) and before:
        yield f"{added:,} of them are new, in shards of their own"
    elif before:
        yield "None of them is new"
    skipped = by_reason(iter_skipped(raw, last=True))
    if skipped.empty:
        return
    yield f"{skipped['files'].sum():,} passed over, each named in {raw.folder / 'skipped'}:"
    for row in skipped.head(MOST_REASONS).to_dict("records"):
        detail = f" ({row['detail']})" if row["detail"] else ""
        yield f"  {row['files']:,} {row['reason']}, such as {row['path']}{detail}"
    if len(skipped) > MOST_REASONS:
        yield f"  and {len(skipped) - MOST_REASONS} more reasons"


def _warn_of_too_few(dataset: Dataset, preset: Preset) -> None:
    """Say now, and not after hours of training, that the data are too few for the preset."""
    from corgi_core.data.trainable import check_trainable

    try:
        check_trainable(dataset.iter_rows, preset)
    except CorgiError as error:
        typer.secho(f"Warning: {error.problem}. Fix: {error.remedy}.", err=True, fg="yellow")


@contextmanager
def progress() -> Iterator[None]:
    """Show on stderr, where that is a terminal, how far the core is; nothing stays of it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    from corgi_core.progress import listening

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), Elapsed())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        with listening(show):
            yield
