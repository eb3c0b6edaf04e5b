"""Which models sample where a person names none: a workspace's champions, or the released model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from corgi_core.io.model_index import CHAMPION, MODELS_FILE, PARTS, ModelIndex
from corgi_core.io.released import RELEASED, released_folder
from corgi_core.pipeline import CorgiPipeline


class AtHand(NamedTuple):
    """A pipeline, and whose it is."""

    pipeline: CorgiPipeline
    name: str  # the workspace's, or the released model's
    is_released: bool

    def __str__(self) -> str:
        """Names the models, for people."""
        if self.is_released:
            return f"the released model {self.name}; `corgi demo` trains your own"
        return f"the models of the workspace {self.name}"


def pipeline_at_hand(workspace: str, home: Path) -> AtHand:
    """The champions of a workspace; while it has none, the released model.

    Args:
        workspace: The workspace's name, such as "emoji".
        home: The folder of the workspaces.

    Raises:
        CorgiError: The champions' folders are damaged; or the workspace has no champions, and this
            installation has no released model.
    """
    folder = None if has_champions(workspace, home) else released_folder()
    if folder is None:
        pipeline = CorgiPipeline.from_pretrained(workspace, home=home)
        return AtHand(pipeline, workspace, is_released=False)
    return AtHand(CorgiPipeline.from_pretrained(folder), RELEASED, is_released=True)


def has_champions(workspace: str, home: Path) -> bool:
    """Whether a workspace has a champion of every part; CorgiError for a damaged registry."""
    path = home / workspace / MODELS_FILE
    if not path.exists():
        return False
    models = ModelIndex.load(path).models
    return all(CHAMPION in models.get(part, {}) for part in PARTS)
