"""`corgi run`, `demo`, `study`, `compare`: do what is missing or stale, resumable at any point."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)
from orchestration.cli.results import show_comparison, show_results, show_study
from orchestration.resources.interrupts import ended_in_time

FIRST_PICTURES = "first_pictures.png"

if TYPE_CHECKING:
    from rich.console import Console

    from orchestration.automation.refresh import Refresh, Step
    from orchestration.settings import Settings


def run(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Train and evaluate everything on any data: do what is missing or has changed.

    Data, CLIP, Gaussians, priors, decoder, evaluation. Stop it with Ctrl-C and run the same
    command again: it continues where it stopped.

    [bold cyan]corgi run --dataset photos[/bold cyan]  your own images, after `corgi ingest`

    [bold cyan]corgi run --preset emoji-small[/bold cyan]  the whole in a few minutes

    [bold cyan]corgi run --config my.yaml --set prior.layers=12[/bold cyan]  your own settings
    """
    settings = chosen_settings(preset, dataset, config, overrides)
    bring_up_to_date(settings, lambda job: job.all_steps(), show_results)


def demo(
    preset: PresetOption = None, config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """`corgi run` on emoji, which need no download: about 12 minutes on two cores.

    Pictures by the released model come first, to look at meanwhile.
    """
    show_first_pictures(chosen_settings(preset, None, config, overrides))
    run(preset, None, config, overrides)


def show_first_pictures(settings: Settings) -> None:
    """Name pictures by the released model, unless the workspace has its own champions.

    A demo that goes on has them already.
    """
    from corgi_core.released.at_hand import has_champions
    from corgi_core.released.first_pictures import write_first_pictures

    out = settings.state / FIRST_PICTURES
    if has_champions(settings.workspace, settings.home):
        return
    if out.exists() or write_first_pictures(out):
        typer.echo(f"Meanwhile, pictures by the released model: {out}")


def study(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Compare many small priors: the paper's figures, sweeps and controls, over several seeds."""
    settings = chosen_settings(preset, dataset, config, overrides)
    bring_up_to_date(settings, lambda job: job.study_steps(), show_study)


def compare(
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Train every kind of decoder, with captions and without, and compare their pictures.

    Tables 1 and 2 of the paper at a small size. Hours on two cores; finished models are reused.
    """
    settings = chosen_settings(preset, dataset, config, overrides)
    bring_up_to_date(settings, lambda job: job.comparison_steps(), show_comparison)


def bring_up_to_date(
    settings: Settings,
    steps_of: Callable[[Refresh], list[Step]],
    show: Callable[[Settings, Console], None],
) -> None:
    """Do those of the steps that are missing or stale, then show the results."""
    from orchestration.cli.screen import own_screen

    settings.check_stores()
    with ended_in_time(), own_screen(settings) as console:
        done, seconds = _refresh(settings, steps_of, console)
        console.print(f"\n{done} steps done in {seconds:.0f} s, the rest was unchanged.\n")
        show(settings, console)


def _refresh(
    settings: Settings, steps_of: Callable[[Refresh], list[Step]], console: Console
) -> tuple[int, float]:
    with console.status("starting"):
        from orchestration.cli.screen import StepDisplay
        from orchestration.resources.tracking import REFRESH_TAG

        refresh = opened_refresh(settings, REFRESH_TAG)
        steps = steps_of(refresh)
    console.print(f"Workspace {settings.workspace}, {len(steps)} steps", markup=False)
    with StepDisplay.on(console, len(steps)) as display:
        return refresh.run(steps, display), display.seconds


def opened_refresh(settings: Settings, kind: str) -> Refresh:
    """The workspace's assets and history, loaded; its runs have a name under the tag `kind`."""
    from orchestration.automation.refresh import Refresh
    from orchestration.definitions import build_definitions
    from orchestration.resources.instance import open_instance

    repository = build_definitions(settings).get_repository_def()
    return Refresh(repository, open_instance(settings), settings, kind)
