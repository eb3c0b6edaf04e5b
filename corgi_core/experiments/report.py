"""An experiment's report as an artefact: tidy rows, figures of them, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of, read_json, write_json
from corgi_core.io.folders import atomic_folder, published
from corgi_core.io.pictures import load_pictures, save_pictures

if TYPE_CHECKING:
    import pandas as pd

ROWS = "measurements.json"
TABLES = "tables"  # a folder
TIMES = ("seconds",)  # differ from one measurement to the next


@dataclass
class StudyReport:
    """`rows` by table; `pictures` and Markdown `tables` by name.

    A row is flat: what was measured, its settings and seed, and the values of its metrics.
    """

    rows: dict[str, list[dict[str, Any]]]
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[dict[str, list[dict[str, Any]]]]) -> Self:
        """The rows of several measurements, in an order that does not depend on theirs."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for part in parts:
            for table, found in part.items():
                rows.setdefault(table, []).extend(found)
        return cls({table: sorted(found, key=_order) for table, found in rows.items()})

    @property
    def digest(self) -> str:
        """Of the rows without wall times: the same measurement again has the same digest."""
        return digest_of(
            {
                table: [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
                for table, rows in self.rows.items()
            }
        )

    def frame(self, table: str) -> pd.DataFrame:
        """The rows of one table."""
        import pandas as pd

        return pd.DataFrame(self.rows[table])

    def save(self, folder: Path | UPath) -> None:
        """measurements.json, a PNG of every picture, and tables/NAME.md."""
        with atomic_folder(folder) as temporary:
            write_json(temporary / ROWS, self.rows)
            save_pictures(temporary, self.pictures)
            for name, text in self.tables.items():
                with atomic_file(temporary / TABLES / f"{name}.md") as file:
                    file.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """The report of a folder that `save` wrote."""
        folder = published(folder)
        if not (folder / ROWS).exists():
            raise CorgiError(f"{folder} holds no report", "run `corgi study` or `corgi compare`")
        tables = {
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(UPath(folder / TABLES).glob("*.md"))
        }
        return cls(read_json(folder / ROWS), load_pictures(folder), tables)


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("seed", "start", "captions", "sampler", "guidance", "steps", "step")
    return (*(row.get(name, 0) for name in names), -row.get("timestep", 0))


def markdown(heads: list[str], lines: list[list[str]]) -> str:
    """A Markdown table whose columns are right-aligned, except for the first.

    Examples:
        >>> print(markdown(["start", "cosine"], [["N(0, I)", "0.8"]]), end="")
        | start | cosine |
        | --- | ---: |
        | N(0, I) | 0.8 |
    """
    rule = ["---" if n == 0 else "---:" for n in range(len(heads))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *lines))
