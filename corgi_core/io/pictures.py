"""Pictures for people: grids, with or without captions, and files that say how they came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file
from corgi_core.io.text_layout import height, wrap, write_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

MARGIN = 6  # pixels between pictures
SMALLEST = 96  # smaller pictures are enlarged to about this in a labelled grid
CAPTION_WIDTH = 220
FRAME_TIME = 120  # milliseconds


def picture(pixels: Tensor | np.ndarray) -> Image.Image:
    """One picture [3, h, w] in [0, 1]; values outside are clamped."""
    on_cpu = pixels if isinstance(pixels, np.ndarray) else pixels.cpu()
    values = np.clip(np.asarray(on_cpu, dtype=np.float32), 0, 1)
    return Image.fromarray((values.transpose(1, 2, 0) * 255).round().astype(np.uint8))


def grid(images: Tensor | np.ndarray, columns: int) -> Image.Image:
    """Pictures [n, 3, h, w] in [0, 1], row by row, `columns` to a row, on white.

    Raises CorgiError where there are no pictures or no columns.
    """
    if len(images) == 0 or columns < 1:
        raise CorgiError(
            f"{len(images)} pictures cannot be laid out in {columns} columns",
            "give at least one picture and one column",
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[-2:]
    sheet = Image.new(
        "RGB",
        (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN),
        "white",
    )
    for i, pixels in enumerate(images):
        row, column = divmod(i, columns)
        corner = (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN))
        sheet.paste(picture(pixels), corner)
    return sheet


def labelled_grid(
    captions: Sequence[str], columns: Mapping[str, Tensor | np.ndarray]
) -> Image.Image:
    """One row a caption: the caption, wrapped, and a picture of every column under its heading.

    Every column holds pictures [n, 3, h, w] in [0, 1], n being the number of captions; small ones
    are enlarged by a whole factor. Raises CorgiError where a column has another number of them.
    """
    for heading, images in columns.items():
        if len(images) != len(captions):
            raise CorgiError(
                f"the column {heading!r} has {len(images)} pictures for {len(captions)} captions",
                "give one picture a caption",
            )
    sides = [max(images.shape[-2:]) for images in columns.values()]
    side = max((-(-SMALLEST // s) * s if s < SMALLEST else s for s in sides), default=SMALLEST)
    heading_lines = [wrap(heading, side) for heading in columns]
    top = MARGIN + height(max(heading_lines, key=len, default=[]))
    step = side + MARGIN
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + CAPTION_WIDTH + step * len(columns), top + MARGIN + step * len(captions)),
        "white",
    )
    canvas = ImageDraw.Draw(sheet)
    left = 2 * MARGIN + CAPTION_WIDTH
    for column, lines in enumerate(heading_lines):
        write_lines(canvas, left + column * step, MARGIN, lines)
    for row, caption in enumerate(captions):
        y = top + MARGIN + row * step
        lines = wrap(caption, CAPTION_WIDTH)
        while lines and height(lines) > side:
            lines = [*lines[:-2], lines[-2] + " …"] if len(lines) > 1 else []
        write_lines(canvas, MARGIN, y + (side - height(lines)) // 2, lines)
        for column, images in enumerate(columns.values()):
            enlarged = picture(images[row]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * step, y))
    return sheet


def enlarged(image: Image.Image) -> Image.Image:
    """A small picture by a whole factor, so that people see it; a larger one as it is."""
    factor = -(-SMALLEST // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_png(image: Image.Image, path: Path | UPath, metadata: Mapping[str, Any]) -> None:
    """Write a PNG, whole or not at all, with `metadata` as JSON in its text chunk "corgi"."""
    text = PngInfo()
    text.add_itxt("corgi", json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False))
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        image.save(file, format="PNG", pnginfo=text)


def save_gif(
    frames: Sequence[Image.Image], path: Path | UPath, metadata: Mapping[str, Any]
) -> None:
    """Write an endless GIF of the frames and back again, whole or not at all.

    Every frame has its own palette of 256 colours.

    Args:
        frames: The images, of one size.
        path: The file.
        metadata: Written as JSON into the file's comment.

    Raises:
        CorgiError: If there are no frames.
    """
    if not frames:
        raise CorgiError("a GIF of no frames shows nothing", "give at least one picture")
    comment = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False).encode()
    there_and_back = [*frames, *frames[-2:0:-1]]
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        there_and_back[0].save(
            file, format="GIF", save_all=True, append_images=there_and_back[1:],
            duration=FRAME_TIME, loop=0, comment=comment,
        )  # fmt: skip


def save_pictures(folder: Path | UPath, pictures: Mapping[str, Image.Image]) -> None:
    """A PNG of every picture, by name, in `folder`, which exists (the caller makes it whole)."""
    for name, image in pictures.items():
        content = BytesIO()
        image.save(content, format="PNG")
        (folder / f"{name}.png").write_bytes(content.getvalue())


def load_pictures(folder: Path | UPath) -> dict[str, Image.Image]:
    """What `save_pictures` wrote, by name."""
    return {path.stem: Image.open(BytesIO(path.read_bytes())) for path in folder.glob("*.png")}


def rendered(figure: Figure, dpi: int = 110) -> Image.Image:
    """A matplotlib figure as a picture."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return Image.open(content)
