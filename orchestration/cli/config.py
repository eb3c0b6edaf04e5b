"""`corgi presets`: what can be chosen."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table


def presets() -> None:
    """The presets side by side: what they are for and how large their parts are."""
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
