"""What datasets and settings may be called: a folder's name on any system, and no preset's."""

from __future__ import annotations

import re
import unicodedata

from corgi_core.config.loading import PRESETS
from corgi_core.errors import CorgiError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
LONGEST_NAME = 64  # characters


def check_dataset_name(name: str) -> None:
    """CorgiError, with a valid name proposed, where no dataset can have the name."""
    if name in PRESETS:
        raise CorgiError(
            f"{name} is the name of a preset, and of its own data",
            f"choose another name, such as {valid_name(name)}",
        )
    check_name("a dataset", name)


def check_name(what: str, name: str) -> None:
    """CorgiError, with a valid name proposed, where `what` cannot have the name."""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise CorgiError(
            f"{name!r} cannot name {what}: names have the letters a to z, digits, - and _, start "
            f"with a letter or digit, and have at most {LONGEST_NAME} characters",
            f"choose another name, such as {valid_name(name)}",
        )


def valid_name(wanted: str) -> str:
    """A valid name for a dataset that is as like `wanted` as can be.

    Examples:
        >>> valid_name("My Photos")
        'my-photos'
    """
    plain = unicodedata.normalize("NFKD", wanted).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9_]+", "-", plain)[:LONGEST_NAME].strip("-_")
    return f"{name or 'my'}-data" if not name or name in PRESETS else name
