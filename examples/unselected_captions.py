"""Pictures of 24 captions that nobody has chosen, by the released model.

python examples/unselected_captions.py released.webp data/styles

The captions are of held-out images of a dataset that `corgi ingest` wrote, drawn with seed 0:
of 24 groups of variants, one of each.
"""

import random
import sys
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw

from corgi_core import CorgiPipeline
from corgi_core.data.dataset import Dataset
from corgi_core.io.pictures import picture
from corgi_core.io.released import released_folder
from corgi_core.io.text_layout import height, wrap, write_lines

COUNT, COLUMNS, SIDE, MARGIN = 24, 8, 128, 10


def held_out_captions(images: Dataset, count: int = COUNT, seed: int = 0) -> list[str]:
    """The captions of test images of some groups, at random: one of each group."""
    by_group = defaultdict[str, list[str]](list)
    for part in images.iter_rows("split", "group", "captions"):
        tested = part[(part["split"] == "test") & part["captions"].notna()]
        for group, captions in zip(tested["group"], tested["captions"], strict=True):
            by_group[group].append(captions[0])
    chosen = random.Random(seed)
    groups = chosen.sample(sorted(by_group), count)
    return [chosen.choice(sorted(by_group[group])) for group in groups]


def strip(pipeline: CorgiPipeline, captions: list[str]) -> Image.Image:
    """One picture of each caption, with seed 0, and the caption below it."""
    images = pipeline.text_to_image(captions, output_type="pt")
    lines = [wrap(caption, SIDE) for caption in captions]
    rows = -(-len(captions) // COLUMNS)
    step, below = SIDE + MARGIN, max(map(height, lines)) + MARGIN
    size = (MARGIN + step * COLUMNS, MARGIN + (SIDE + below) * rows)
    sheet = Image.new("RGB", size, "white")
    for i, (image, words) in enumerate(zip(images, lines, strict=True)):
        left, top = MARGIN + i % COLUMNS * step, MARGIN + i // COLUMNS * (SIDE + below)
        large = picture(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        sheet.paste(large, (left, top))
        write_lines(ImageDraw.Draw(sheet), left, top + SIDE + MARGIN // 2, words)
    return sheet


def main(out: str, dataset: str) -> None:
    """Draw the captions, sample, and write the strip to a file."""
    images = Dataset.load(Path(dataset) / "images")
    folder = released_folder()
    assert folder is not None, "the package comes with a released model"
    pipeline = CorgiPipeline.from_pretrained(folder)
    strip(pipeline, held_out_captions(images)).save(out, quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
