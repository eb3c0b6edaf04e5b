"""`corgi metrics`: two folders of pictures compared, whoever made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestration.cli.data import progress


def metrics(
    real: Annotated[
        Path,
        typer.Argument(metavar="REAL", help="A folder of real pictures, or what --save wrote."),
    ],
    generated: Annotated[
        Path, typer.Argument(metavar="GENERATED", help="A folder of generated pictures.")
    ],
    inception: Annotated[
        str | None, typer.Option(metavar="FILE", help="A TorchScript Inception: gives FID and KID.")
    ] = None,
    dinov2: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A DINOv2, as transformers saves it.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the features of REAL, to compare with again."),
    ] = None,
) -> None:
    """Compare two folders of pictures: FID with its bias, KID, precision, recall and more.

    Each score stands beside its 95 % interval: how far it moves with other pictures.

    [bold cyan]corgi metrics real/ ours/ --inception net.pt --save real.safetensors[/bold cyan]

    [bold cyan]corgi metrics real.safetensors others/ --inception net.pt[/bold cyan]

    The pictures must be square and alike in size, encoding (all PNG, or all JPEG) and framing, or
    that alone would set the two apart.
    """
    from corgi_core.devices import Device
    from corgi_core.evaluation.picture_folders import FolderFeatures, compared, extractor_of
    from corgi_core.metrics.bootstrap import CI_HIGH, CI_LOW

    name, extractor = extractor_of(inception, dinov2, Device().here())
    with progress():
        if real.is_dir():
            of_real = FolderFeatures.of(real, name, extractor)
        else:
            of_real = FolderFeatures.load(real, extractor)
        if save is not None:
            of_real.save(save)
        found = compared(of_real, FolderFeatures.of(generated, name, extractor))
    for metric, value in found.items():
        if not metric.endswith((CI_LOW, CI_HIGH)):
            interval = [found[metric + end] for end in (CI_LOW, CI_HIGH) if metric + end in found]
            typer.echo(_line(metric, value, interval))
    typer.echo(f"Protocol: {of_real.protocol}.")


def _line(metric: str, value: float, interval: Sequence[float]) -> str:
    """A metric's line, with the ends of its interval if it has one."""
    written = f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
    ends = " to ".join(f"{end:,.4f}" for end in interval)
    return f"{metric:20} {written:>12}" + (f"  95 %: {ends}" if ends else "")
