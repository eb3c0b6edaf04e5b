"""An experiment's report as an artefact: tidy rows, figures of them, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.evaluation.protocol import Protocol
from corgi_core.io.files import atomic_file, digest_of, read_json, write_json
from corgi_core.io.folders import atomic_folder, published
from corgi_core.io.pictures import load_pictures, save_pictures

if TYPE_CHECKING:
    import pandas as pd

ROWS = "measurements.json"
TABLES = "tables"  # a folder
PROTOCOLS = "protocols.json"
TIMES = ("seconds",)  # differ from one measurement to the next


@dataclass
class StudyReport:
    """`rows` by table; `pictures` and Markdown `tables` by name; `protocols` by what is reported.

    A row is flat: what was measured, its settings and seed, and the values of its metrics.
    """

    rows: dict[str, list[dict[str, Any]]]
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)

    @classmethod
    def joined(
        cls,
        parts: Iterable[dict[str, list[dict[str, Any]]]],
        protocols: Mapping[str, Protocol] | None = None,
    ) -> Self:
        """The rows of several measurements, in an order that does not depend on theirs."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for part in parts:
            for table, found in part.items():
                rows.setdefault(table, []).extend(found)
        ordered = {table: sorted(found, key=_order) for table, found in rows.items()}
        return cls(ordered, protocols=dict(protocols or {}))

    @property
    def digest(self) -> str:
        """Of protocols and rows without wall times, which the same measurement again has too."""
        rows = {
            table: [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
            for table, rows in self.rows.items()
        }
        protocols = {name: each.digest for name, each in self.protocols.items()}
        return digest_of(rows, protocols) if protocols else digest_of(rows)

    def frame(self, table: str) -> pd.DataFrame:
        """The rows of one table."""
        import pandas as pd

        return pd.DataFrame(self.rows[table])

    def save(self, folder: Path | UPath) -> None:
        """measurements.json, protocols.json, a PNG of every picture, and tables/NAME.md."""
        with atomic_folder(folder) as temporary:
            write_json(temporary / ROWS, self.rows)
            protocols = {name: each.stored for name, each in self.protocols.items()}
            write_json(temporary / PROTOCOLS, protocols)
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
        there = (folder / PROTOCOLS).exists()  # not of older versions
        stored = read_json(folder / PROTOCOLS) if there else {}
        protocols = {name: Protocol.stored_in({"protocol": each}) for name, each in stored.items()}
        return cls(read_json(folder / ROWS), load_pictures(folder), tables, protocols)


def common_protocol(reports: Sequence[StudyReport], name: str) -> Protocol:
    """The protocol of reports that differ in their seeds alone: that of the first one.

    Raises:
        CorgiError: they were measured under different protocols, or one names none.
    """
    if not reports or any(name not in each.protocols for each in reports):
        raise CorgiError(
            f"a report of the {name} names no protocol: it was measured by an older version of "
            "Corgi",
            "measure it again: what is trained already is not trained again",
        )
    first, *others = (each.protocols[name] for each in reports)
    for other in others:
        first.check_comparable(replace(other, seed=first.seed))
    return first


def check_rows(there: Collection[str], mandatory: Iterable[str]) -> None:
    """Raise CorgiError, which names it, where a row is missing that every table has."""
    missing = next((name for name in mandatory if name not in there), None)
    if missing is not None:
        raise CorgiError(
            f"the report lacks a row without which its scores say little: {missing}",
            "measure again with this version of Corgi, which measures all of them",
        )


def protocol_line(protocol: Protocol, seeds: Sequence[int]) -> str:
    """The protocol in a line, with all seeds that were measured under it."""
    several = f"; over the seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    return protocol.line + several


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("seed", "start", "captions", "sampler", "guidance", "weak", "steps", "step")
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
