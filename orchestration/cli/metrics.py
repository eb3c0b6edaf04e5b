"""`corgi metrics`: two folders of pictures compared, whoever made them."""

from __future__ import annotations

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

    [bold cyan]corgi metrics real/ ours/ --inception net.pt --save real.safetensors[/bold cyan]

    [bold cyan]corgi metrics real.safetensors others/ --inception net.pt[/bold cyan]

    The pictures must be square and alike in size, encoding (all PNG, or all JPEG) and framing, or
    that alone would set the two apart.
    """
    from corgi_core.devices import Device
    from corgi_core.evaluation.picture_folders import FolderFeatures, compared, extractor_of

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
        typer.echo(
            f"{metric:20} {value:>12,}"
            if isinstance(value, int)
            else f"{metric:20} {value:>12,.4f}"
        )
