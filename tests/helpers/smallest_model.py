"""The smallest artefact that a registry takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Model:
    """A folder that states its digest."""

    digest: str
    card: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "ensemble.json").write_text(json.dumps({"digest": self.digest}))

    @classmethod
    def load(cls, folder: Path) -> Model:
        return cls(json.loads((folder / "ensemble.json").read_text())["digest"])
