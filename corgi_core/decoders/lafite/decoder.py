"""Lafite's decoder: a caption's CLIP embedding goes straight in, no prior comes between."""

from __future__ import annotations

from typing import ClassVar, Literal

from corgi_core.decoders.gan.decoder import GanDecoder


class LafiteDecoder(GanDecoder):
    """The GAN decoder for CLIP's text embeddings."""

    takes: ClassVar[Literal["image", "text"]] = "text"
