"""`corgi propose`: which images to caption next, as a table to fill in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.data import progress
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)


class Rule(StrEnum):
    """How images are chosen."""

    COVERAGE = "coverage"
    UNCERTAINTY = "uncertainty"
    RANDOM = "random"


def propose(
    budget: Annotated[
        int, typer.Option("-n", "--count", min=1, help="How many images to caption.")
    ] = 100,
    rule: Annotated[
        Rule | None,
        typer.Option(help="Default: uncertainty where there is a champion, else coverage."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The table to write.")] = Path("captions.csv"),
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Propose images to caption next: a table to fill in and to ingest beside the images.

    [bold cyan]corgi propose --dataset photos -n 100 --out ~/photos/captions.csv[/bold cyan]

    Write a caption into the column [bold]text[/bold] of each row; rows that stay empty do no harm.
    Then read the folder again, and train the priors further:

    [bold cyan]corgi ingest ~/photos --format imagefolder --name photos --replace[/bold cyan]

    [bold cyan]corgi retrain --dataset photos[/bold cyan]

    The rule uncertainty takes images that the champion cannot generate yet; coverage spreads over
    the images that have no caption; random takes any. Near twins are never both proposed.
    """
    settings = chosen_settings(preset, dataset, config, overrides)
    if out.exists():
        raise CorgiError(
            f"{out} is there already, and may have captions in it", "name another file by --out"
        )
    from assets.proposals import CaptionBudget, proposed
    from corgi_core.data.arrays import ArrayStore
    from corgi_core.data.dataset import Dataset
    from corgi_core.io.files import atomic_file
    from corgi_core.io.model_index import MODELS_FILE
    from orchestration.resources.compute import Compute
    from orchestration.resources.workspace import Workspace

    workspace, asked = Workspace.of(settings), CaptionBudget(budget=budget, rule=rule or "")
    images = Dataset.load(workspace.path_of("images"))
    store = ArrayStore.load(workspace.path_of("image_embeddings"))
    with progress():
        found = proposed(
            asked, images, store, workspace, Compute.of(settings), settings.state / MODELS_FILE
        )
    if not found.keys:
        raise CorgiError(
            "every training image has a caption, or a near twin that has one",
            "ingest images without captions first",
        )
    with atomic_file(out) as temporary:
        temporary.write_text(found.table, encoding="utf-8", newline="")
    typer.echo(f"{out}: {len(found.keys):,} images to caption; write into the column text")
