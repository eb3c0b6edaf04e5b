"""Pictures by the released model, to look at while one's own models are trained."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from corgi_core.io.pictures import labelled_grid, save_png
from corgi_core.io.released import RELEASED, released_folder
from corgi_core.pipeline import CorgiPipeline

CAPTIONS = (
    "pizza", "red apple", "rocket", "dog face", "cactus", "grinning face", "automobile", "snowman",
)  # fmt: skip
EACH = 3


def write_first_pictures(out: Path) -> bool:
    """Write a grid of the released model's pictures of `CAPTIONS`, seed 0, as a PNG.

    Returns:
        Whether there is a released model; without one nothing is written.
    """
    folder = released_folder()
    if folder is None:
        return False
    pipeline = CorgiPipeline.from_pretrained(folder)
    images = pipeline.text_to_image(CAPTIONS, EACH, output_type="pt")
    assert isinstance(images, Tensor)
    columns = {f"picture {n + 1}": images[n::EACH] for n in range(EACH)}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(labelled_grid(list(CAPTIONS), columns), out, {"model": RELEASED, "seed": 0})
    return True
