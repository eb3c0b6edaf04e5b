"""`corgi presets`, `corgi config show` and `corgi config check`: what is set, and by what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)

if TYPE_CHECKING:
    from orchestration.settings import Settings

ORIGIN_COLUMN = 56  # where comments begin; longer lines push theirs to the right

config = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show the settings and where each comes from, or check them before a long run.",
)


def presets() -> None:
    """The presets side by side: what they are for and how large their parts are."""
    from rich.console import Console
    from rich.table import Column, Table

    from corgi_core.config import PRESETS, preset_named

    table = Table(
        Column("preset", no_wrap=True), "source", "CLIP", "pixels", "prior", "decoders", "workers"
    )
    for name in PRESETS:
        preset = preset_named(name)
        prior, decoder = preset.prior, preset.decoder
        table.add_row(
            name,
            preset.data.source,
            ", ".join(preset.encoders.clip),
            str(decoder.image_size) if decoder else "–",
            f"{prior.layers} × {prior.width}, {prior.training.steps:,} steps",
            ", ".join(f"{d.kind}, {d.training.steps:,} steps" for d in preset.decoders) or "–",
            str(preset.workers),
        )
    Console().print(table)


@config.command()
def show(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: value and origin by setting.")
    ] = False,
) -> None:
    """Print every setting, as YAML that --config reads, and where each comes from.

    An origin is a preset, a file, a variable, --set, or "default".
    """
    import json

    settings = chosen_settings(preset, dataset, config, overrides)
    if as_json:
        entries = {
            path: {"value": value, "origin": settings.loaded.origin_of(path)}
            for path, value in _values(settings)
        }
        typer.echo(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    typer.echo(f"# workspace {settings.workspace} in {settings.state}")
    typer.echo(f"# data in {settings.dataset_folder}, artefacts in {settings.storage}")
    typer.echo(f"# MLflow at {settings.tracking_uri}")
    for line in _lines(settings):
        typer.echo(line)


@config.command()
def check(
    name: Annotated[
        str | None,
        typer.Argument(metavar="PRESET", help="The same as --preset.", show_default=False),
    ] = None,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    device_flops: Annotated[
        float | None,
        typer.Option(
            help="FLOP/s that a GPU really does; an A100 about 125e12. Default: 400e12, an H100's "
            "bfloat16 rate at 40 % utilisation.",
            min=1,
        ),
    ] = None,
) -> None:
    """Check the settings, and print what each model needs of a GPU; no weights are loaded.

    Memory is that of float32 weights, of gradients, optimiser and moving average, and of a
    microbatch's activations. Time is operations over --device-flops: reading data, evaluation and
    the waiting of GPUs for one another come on top.
    """
    if name and preset and name != preset:
        raise CorgiError(f"{name} and --preset {preset} are two presets", "name one")
    settings = chosen_settings(name or preset, dataset, config, overrides)
    from rich.console import Console

    from corgi_core.data.dataset import Dataset, is_dataset
    from corgi_core.sizes import GPU_RATE, caption_storage, model_sizes, pixel_storage
    from orchestration.cli.size_tables import (
        memory_table,
        notes,
        pixel_note,
        storage_note,
        time_table,
    )

    sizes, rate = model_sizes(settings.preset), device_flops or GPU_RATE
    console = Console(highlight=False)
    console.print(memory_table(sizes))
    console.print(time_table(sizes, rate))
    for line in notes(sizes, rate):
        typer.echo(line)
    folder = settings.dataset_folder / "images"
    images = Dataset.load(folder) if is_dataset(folder) else None
    if storage := caption_storage(settings.preset, images):
        typer.echo(storage_note(storage))
    if squares := pixel_storage(settings.preset, images):
        typer.echo(pixel_note(squares))
    typer.echo(f"The settings of {settings.workspace} are valid.")


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """(dotted path, plain value) of every setting."""

    def below(tree: dict[str, Any], under: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                yield from below(value, f"{under}{key}.")
            else:
                yield f"{under}{key}", value

    yield from below(settings.values, "")


def _lines(settings: Settings) -> Iterator[str]:
    """YAML, each setting's origin as a comment behind it."""
    from corgi_core.config.loading import yaml_of

    yield f"{'extends: ' + settings.base:<{ORIGIN_COLUMN}}  # the preset beneath"
    open_sections: list[str] = []
    for path, value in _values(settings):
        *sections, name = path.split(".")
        common = 0
        while open_sections[: common + 1] == sections[: common + 1] and common < len(sections):
            common += 1
        for depth in range(common, len(sections)):
            yield f"{'  ' * depth}{sections[depth]}:"
        open_sections = sections
        indent = "  " * len(sections)
        first, *rest = yaml_of({name: value}).splitlines()
        yield f"{indent + first:<{ORIGIN_COLUMN}}  # {settings.loaded.origin_of(path)}"
        yield from (f"{indent}{line}" for line in rest)
