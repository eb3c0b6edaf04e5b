"""How much memory a UNet needs for one image that it denoises at once."""

from __future__ import annotations

from corgi_core.config import StageSettings

GB = 1e9
FLOAT32 = 4  # bytes
ATTENDED = 24  # maps of a level's channels that its transformer's widest layer holds at once
COPIES = 2  # of all maps: convolutions make copies in their own format


def image_memory(stage: StageSettings) -> float:
    """Bytes of the activations of one image, where they are most; weights are not counted.

    It is one to two times what was measured on a CPU.

    On the way down every level keeps the outputs of its layers, for the way up. There a level joins
    the map from below with one of its own, and normalises and activates the joined map: three of
    its size at once, beside the map from below.
    """
    stored, most = 0.0, 0.0
    levels = len(stage.channels)
    for level, own in enumerate(stage.channels):
        below = stage.channels[min(level + 1, levels - 1)]
        pixels = (stage.size / 2**level) ** 2
        stored += (stage.layers + 1) * own * pixels
        working = below + 3 * (own + below)
        if level >= levels - stage.attention_levels:
            working = max(working, ATTENDED * own)
        most = max(most, stored + working * pixels)
    return COPIES * FLOAT32 * most
