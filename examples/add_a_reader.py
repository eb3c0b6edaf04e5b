"""Add a reader: your own layout of images and captions, known to `corgi ingest`.

python examples/add_a_reader.py
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from corgi_core.config import DataSettings
from corgi_core.data.dataset import Dataset
from corgi_core.data.formats import READERS, Sample, Skipped
from corgi_core.data.ingest import ingest
from corgi_core.data.quality import gate


def read(path: Path, caption_column: str | None = None) -> Iterator[Sample | Skipped]:
    """A folder for each image: `NAME/image.png` with its captions, one a line, in `NAME/captions`.

    Bytes are yielded as they are; Corgi decodes, checks and splits them later.
    """
    for folder in sorted(path.iterdir()):
        image, captions = folder / "image.png", folder / "captions"
        if not image.is_file():
            yield Skipped(str(folder), "no image", "image.png is missing")
            continue
        yield Sample(
            key=folder.name,
            image=image.read_bytes(),
            captions=captions.read_text().splitlines() if captions.exists() else None,
            split=None,  # Corgi splits by group, so that near twins stay together
            source=path.name,
            group=folder.name,
        )


READERS["folders"] = read  # its name in `corgi ingest PATH --format folders`


def main() -> Dataset:
    """Read three made images, one of them without captions, and pass them through the gate."""
    settings = DataSettings(test_fraction=0.3)
    with tempfile.TemporaryDirectory() as temporary:
        photos, data = Path(temporary) / "photos", Path(temporary) / "data"
        for name, colour in {"apple": "red", "leaf": "green", "sky": "blue"}.items():
            (photos / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), colour).save(photos / name / "image.png")
        (photos / "apple" / "captions").write_text("a red apple\nfruit\n")
        (photos / "leaf" / "captions").write_text("a green leaf\n")
        (photos / "notes").mkdir()

        raw = ingest("folders", str(photos), data / "raw_images", settings, seed=0)
        images = gate(raw, data / "images", settings)
        for rows in images.iter_rows("key", "split", "captions"):
            for row in rows.itertuples():
                print(f"{row.key}: {row.split}, captions {row.captions}")
        return images


if __name__ == "__main__":
    main()
