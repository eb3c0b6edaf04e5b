"""Captions beside each other, four images of each: the strip at the top of the README.

python examples/strip_of_captions.py emoji strip.webp "a red apple" "a house, noto style"
"""

import sys

from PIL import Image, ImageDraw

from corgi_core import CorgiPipeline
from corgi_core.io.pictures import grid
from corgi_core.io.text_layout import height, wrap, write_lines

SIDE = 256  # of four images, in pixels
MARGIN = 12


def strip(pipeline: CorgiPipeline, captions: list[str], seed: int = 0) -> Image.Image:
    """One column a caption: four images in a square, and the caption below them."""
    images = pipeline.text_to_image(captions, num_images=4, seed=seed, output_type="pt")
    lines = [wrap(caption, SIDE) for caption in captions]
    step, text = SIDE + MARGIN, max(map(height, lines))
    sheet = Image.new("RGB", (MARGIN + step * len(captions), SIDE + text + 3 * MARGIN), "white")
    for i, caption_lines in enumerate(lines):
        left = MARGIN + i * step
        square = grid(images[4 * i : 4 * i + 4], columns=2).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        sheet.paste(square, (left, MARGIN))
        write_lines(ImageDraw.Draw(sheet), left, SIDE + 2 * MARGIN, caption_lines)
    return sheet


def main(workspace: str, out: str, *captions: str) -> None:
    """Sample with the models of a workspace, and write the strip to a file."""
    strip(CorgiPipeline.from_pretrained(workspace), list(captions)).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
