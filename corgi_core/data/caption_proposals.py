"""Images that are proposed for captioning, as a table that a person fills in and gives back.

`captions.csv` has a row an image: its name, an empty text, and why it was proposed. Put beside the
images, it is a table of captions as `corgi ingest --format imagefolder` reads them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from upath import UPath

from corgi_core.data.caption_choice import COVERAGE, UNCERTAINTY, Candidates, Choice
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.io.folders import atomic_folder, published

FILE = "captions.csv"


@dataclass(frozen=True)
class Proposal:
    """One row of the table; its fields are the columns.

    Attributes:
        file_name: The image's key, which is its path without the suffix.
        text: The caption, empty until somebody writes it.
        rule: By which it was chosen.
        reason: Why.
    """

    file_name: str
    text: str
    rule: str
    reason: str


@dataclass(frozen=True)
class CaptionProposals:
    """Images to caption, in the order in which they were chosen."""

    proposals: tuple[Proposal, ...]

    @classmethod
    def of(cls, candidates: Candidates, choices: list[Choice], rule: str) -> Self:
        """The table of what `choose` chose among the candidates."""
        return cls(
            tuple(
                Proposal(str(candidates.keys[each.row]), "", rule, _reason(each, rule))
                for each in choices
            )
        )

    @property
    def keys(self) -> list[str]:
        """The images' keys."""
        return [each.file_name for each in self.proposals]

    @property
    def digest(self) -> str:
        """Names the images and the reasons."""
        return digest_of([asdict(each) for each in self.proposals])

    @property
    def table(self) -> str:
        """The rows as CSV, the columns' names first."""
        content = io.StringIO(newline="")
        columns = [column.name for column in fields(Proposal)]
        writer = csv.DictWriter(content, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in self.proposals)
        return content.getvalue()

    def save(self, folder: Path | UPath) -> None:
        """Write `<folder>/captions.csv`."""
        with atomic_folder(folder) as temporary:
            (temporary / FILE).write_text(self.table, encoding="utf-8", newline="")

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """What `save` wrote; a CorgiError where there is nothing."""
        path = published(folder) / FILE
        if not path.exists():
            raise CorgiError(
                f"{folder} holds no proposals of images to caption",
                "materialise caption_proposals again",
            )
        with path.open(encoding="utf-8", newline="") as file:
            return cls(tuple(_rows(file)))


def _rows(lines: Iterable[str]) -> Iterator[Proposal]:
    yield from (Proposal(**row) for row in csv.DictReader(lines))


def _reason(choice: Choice, rule: str) -> str:
    """Why an image was chosen, in words."""
    if rule == UNCERTAINTY:
        return f"the prior's nearest sample has a cosine of {choice.reach:.2f} to it"
    if rule != COVERAGE:
        return "chosen at random"
    if choice.cosine <= -1:
        return "the first image: none had a caption"
    return f"the nearest image with a caption, or above, has a cosine of {choice.cosine:.2f} to it"
