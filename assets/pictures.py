"""Pictures inline on Dagster's pages, few and small enough for an event log."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.resources.artifacts import Dataset, SplitOverlap

if TYPE_CHECKING:
    from PIL.Image import Image

EVENT = 60_000  # bytes of all pictures of one event, which is stored thrice, a third larger
LARGEST = 2048  # pixels of the longer side of a picture that has more than its share of bytes
SMALLER = 0.8  # by which it is scaled then, again and again
THUMBNAILS, COLUMNS, SIDE = 24, 8, 64  # images, images a row, pixels
TWINS = 8  # pairs


def picture(image: Image, limit: int = EVENT // 3) -> dg.MarkdownMetadataValue:
    """An inline picture: a PNG, or a WebP scaled down to `limit` bytes where that is larger."""
    kind, content, side = "png", _encoded(image, "PNG"), LARGEST
    image = image.copy()
    while len(content) > limit:
        image.thumbnail((side, side))
        kind, content, side = "webp", _encoded(image, "WEBP"), int(SMALLER * max(image.size))
    encoded = base64.b64encode(content).decode()
    return dg.MetadataValue.md(f"![picture](data:image/{kind};base64,{encoded})")


def pictures(
    images: Mapping[str, Image], files: Path
) -> dict[str, dg.MarkdownMetadataValue | dg.PathMetadataValue]:
    """Inline pictures by name, small together, and the folder of the files that are not."""
    limit = EVENT // max(1, len(images))
    inline = {name: picture(image, limit) for name, image in images.items()}
    return {**inline, "files": dg.MetadataValue.path(files)}


def thumbnails(images: Dataset) -> dg.MarkdownMetadataValue | None:
    """The first images of a gated dataset; None where it holds embeddings."""
    if not images.holds_pictures:
        return None
    files = (file for shard in images.shards for _, file in images.images(shard))
    return contact_sheet(list(islice(files, THUMBNAILS)))


def contact_sheet(files: Sequence[bytes]) -> dg.MarkdownMetadataValue | None:
    """Some image files as a grid of small squares; None where there are none."""
    import numpy as np

    from corgi_core.data.pixels import square
    from corgi_core.io.pictures import grid

    squares = [square(file, SIDE) for file in files]
    return picture(grid(np.stack(squares) / 255, COLUMNS)) if squares else None


def first_of(images: Dataset, keys: Sequence[str]) -> dg.MarkdownMetadataValue | None:
    """The images with the first of these keys, in their order; None where there are no pictures."""
    if not images.holds_pictures:
        return None
    files = files_of(images, keys[:THUMBNAILS])
    return contact_sheet([files[key] for key in keys[:THUMBNAILS]])


def near_twins(images: Dataset, overlap: SplitOverlap) -> dg.MarkdownMetadataValue | None:
    """The first held-out images that do not count, beside those that they are near to."""
    import numpy as np

    from corgi_core.data.pixels import square
    from corgi_core.io.pictures import labelled_grid

    some = overlap.pairs.head(TWINS)
    if not images.holds_pictures or some.empty:
        return None
    beside = some["hash_key"].fillna(some["nearest_key"])
    files = files_of(images, {*some["key"], *beside})
    squares = {key: square(file, SIDE) / 255 for key, file in files.items()}
    columns = {
        heading: np.stack([squares[key] for key in keys])
        for heading, keys in (("held out", some["key"]), ("near twin", beside))
    }
    labels = [f"{k}, {s}" for k, s in zip(some["key"], some["split"], strict=True)]
    return picture(labelled_grid(labels, columns))


def files_of(images: Dataset, keys: Collection[str]) -> dict[str, bytes]:
    """The image files with these keys, by key; of the shards without them, manifests are read."""
    wanted, found = set(keys), dict[str, bytes]()
    for shard in images.shards:
        here = wanted.intersection(images.rows(shard, "key")["key"])
        if here:
            found |= {key: file for key, file in images.images(shard) if key in here}
            wanted -= here
        if not wanted:
            break
    return found


def loss_curve(metrics_log: Path) -> Image:
    """Loss over the steps, and the learning rate below it, from a training's metrics log."""
    from matplotlib.figure import Figure

    from corgi_core.io.pictures import rendered

    entries = [json.loads(line) for line in metrics_log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for panel, name in zip(panels, ("loss", "learning_rate"), strict=True):
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        panel.plot(*zip(*points, strict=True) if points else ((), ()), linewidth=1)
        panel.set_ylabel(name.replace("_", " "))
    panels[-1].set_xlabel("step")
    return rendered(figure, dpi=90)


def _encoded(image: Image, kind: str) -> bytes:
    content = BytesIO()
    image.save(content, format=kind, optimize=True)
    return content.getvalue()
