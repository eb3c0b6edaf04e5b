"""Where the released model is: a pipeline's folder inside the package.

It is as small as it can be (`corgi_core/released/compact.py`): float16, and without the text
encoder, which is an installed package.
"""

from __future__ import annotations

from pathlib import Path

RELEASED = "emoji-full"
"""The released model's name: of the preset that it was trained with."""
SOURCES = ("emoji", "emoji-full")
"""The readers (`data.source`) of data that the released model knows."""
FOLDER = Path(__file__).parents[1] / "released"


def released_folder(name: str = RELEASED) -> Path | None:
    """The folder of the released model of that name; None where there is none."""
    folder = FOLDER / name
    return folder if name == RELEASED and folder.is_dir() else None
