"""`corgi retrain`: priors continue from their champions on the present data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)
from orchestration.cli.run import opened_refresh
from orchestration.resources.interrupts import ended_in_time


class Start(StrEnum):
    """What a retrained prior continues from."""

    CHAMPION = "champion"
    SCRATCH = "scratch"


def retrain(
    fractions: Annotated[
        list[str] | None,
        typer.Option(
            "--fractions",
            metavar="SHARE",
            help="A caption fraction such as 1.7%, several times for several; default: those "
            "that learn from some of the captions only.",
        ),
    ] = None,
    variant: Annotated[
        str, typer.Option("--variant", help="Default: the variant of each fraction's champion.")
    ] = "",
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="The budget; default: a quarter of the settings' steps."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="The budget as time, by the speed of the last training."),
    ] = None,
    start: Annotated[
        Start, typer.Option("--from", help="What the priors continue from.")
    ] = Start.CHAMPION,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Train priors further on the present data, and decide whether they are better.

    New images are checked and embedded, the Gaussians fitted again; CLIP and decoder stay. Each
    prior then continues from the champion of its caption fraction, is scored on the same captions
    as the champion, and is registered. Where nothing has changed, nothing is trained.

    [bold cyan]corgi retrain --fractions 1.7% --steps 200[/bold cyan]

    [bold cyan]corgi retrain --minutes 30[/bold cyan]  all semi-supervised priors, half an hour each
    """
    settings = chosen_settings(preset, dataset, config, overrides)
    settings.check_stores()
    from orchestration.cli.screen import StepDisplay, own_screen

    with ended_in_time(), own_screen(settings) as console:
        with console.status("starting"):
            from orchestration.automation.retrain import Retrain, plan
            from orchestration.automation.retrain import retrain as retrain_priors
            from orchestration.resources.tracking import RETRAIN_TAG

            refresh = opened_refresh(settings, RETRAIN_TAG)
            wanted = Retrain(
                fractions=fractions or [],
                variant=variant,
                steps=steps,
                minutes=minutes,
                parent="" if start is Start.SCRATCH else start.value,
            )
            count = len(plan(refresh, wanted))
        console.print(f"Workspace {settings.workspace}, {count} steps", markup=False)
        with StepDisplay.on(console, count) as display:
            outcomes = retrain_priors(refresh, wanted, display)
        for outcome in outcomes:
            console.print(outcome.sentence, markup=False, soft_wrap=True)
