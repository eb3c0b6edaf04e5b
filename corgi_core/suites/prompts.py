"""Prompt suites as they are published: PartiPrompts (TSV), DrawBench (CSV or text), any list.

A table has a column of prompts, and may have columns of categories and of challenges. Any other
file is plain text with a prompt on each line. A prompt's number is its position in the file, from
1; blank lines do not count. A suite with a line that cannot be read is refused as a whole: a prompt
left out would give all that follow another number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from corgi_core.data.formats.conventions import (
    TABLE_SUFFIXES,
    Skipped,
    column_among,
    numbered_lines,
    text_of,
)
from corgi_core.data.formats.tables import Row, rows_of
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text")
CATEGORY_COLUMNS = ("category", "categories")
CHALLENGE_COLUMNS = ("challenge", "challenges")
NO_CATEGORY = "all"  # of prompts without one
LEFT_OUT = "left out, it would give every later prompt another number"
NOT_UTF8 = "\ufffd"  # what stands for bytes that are no text


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite.

    Attributes:
        number: Its position in the suite, from 1.
        text: The prompt.
        category: What it is about, such as "Animals"; "all" where the suite has no categories.
        challenge: What is hard about it, such as "Quantity"; "" where the suite does not say.
    """

    number: int
    text: str
    category: str = NO_CATEGORY
    challenge: str = ""


@dataclass(frozen=True)
class PromptSuite:
    """Prompts under a name.

    Attributes:
        name: Of the file, without its suffix.
        prompts: In the file's order.
    """

    name: str
    prompts: tuple[Prompt, ...]

    @cached_property
    def digest(self) -> str:
        """Identifies the prompts, their order and their categories."""
        return digest_of([asdict(prompt) for prompt in self.prompts])

    def by_category(self) -> dict[str, list[Prompt]]:
        """The prompts of each category, in order of appearance."""
        categories: dict[str, list[Prompt]] = {}
        for prompt in self.prompts:
            categories.setdefault(prompt.category, []).append(prompt)
        return categories


class _Line(NamedTuple):
    """What one line or row of a file says."""

    where: str  # "parti.tsv, line 3"
    text: str
    category: str = ""
    challenge: str = ""


def read_suite(path: Path) -> PromptSuite:
    """The prompts of a file.

    Args:
        path: A table (.tsv, .csv, .jsonl, .parquet) with a column Prompt, or plain text.

    Returns:
        The suite, under the file's name.

    Raises:
        CorgiError: If there is no such file, no column of prompts or no prompt, or a line cannot
            be read or is no prompt.
    """
    if not path.is_file():
        raise CorgiError(f"{path} is no file", "give a prompt suite as a TSV, CSV or text file")
    is_table = path.suffix.lower().lstrip(".") in TABLE_SUFFIXES
    lines = list(_rows(path) if is_table else _lines(path))
    if not lines:
        raise CorgiError(f"{path} has no prompts", "write a prompt on each line")
    prompts = tuple(
        Prompt(number, _checked(line), line.category or NO_CATEGORY, line.challenge)
        for number, line in enumerate(lines, start=1)
    )
    return PromptSuite(path.stem, prompts)


def _lines(path: Path) -> Iterator[_Line]:
    for number, line in numbered_lines(path.read_bytes()):
        yield _Line(f"{path.name}, line {number}", line)


def _rows(path: Path) -> Iterator[_Line]:
    for row in _tabbed_rows(path) if path.suffix.lower() == ".tsv" else _table_rows(path):
        column = column_among(row.values, PROMPT_COLUMNS)
        if column is None:
            raise CorgiError(
                f"{path} has no column of prompts; its columns are {', '.join(row.values)}",
                "give the first line the columns' names: Prompt and, where there are such, "
                "Category and Challenge",
            )
        category, challenge = (
            _cell(row.values[found]) if (found := column_among(row.values, names)) else ""
            for names in (CATEGORY_COLUMNS, CHALLENGE_COLUMNS)
        )
        yield _Line(row.where, _cell(row.values[column]), category, challenge)


def _tabbed_rows(path: Path) -> Iterator[Row]:
    """The rows of a TSV, whose quotes are the prompts' own: PartiPrompts quotes no cells."""
    lines = [
        (f"{path.name}, line {number}", line.split("\t"))
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text_of(path.read_bytes())), start=1)
        if line.strip()
    ]
    _, columns = lines[0] if lines else ("", [])
    for where, cells in lines[1:]:
        if len(cells) > len(columns):
            raise CorgiError(
                f"{where} has {len(cells)} cells in {len(columns)} columns",
                f"mend that line: {LEFT_OUT}",
            )
        cells += [""] * (len(columns) - len(cells))
        yield Row(where, dict(zip(columns, cells, strict=True)))


def _table_rows(path: Path) -> Iterator[Row]:
    for row in rows_of(path, path.name, lambda _: False):
        if isinstance(row, Skipped):
            raise CorgiError(
                f"{row.path}: {row.reason} ({row.detail})", f"mend that line: {LEFT_OUT}"
            )
        yield row


def _cell(value: object) -> str:
    return "" if value is None else str(value).strip()


def _checked(line: _Line) -> str:
    """The line's prompt; CorgiError, with the line, where no model takes it."""
    from corgi_core.pipeline import check_prompts

    if NOT_UTF8 in line.text:
        raise CorgiError(f"{line.where} is not UTF-8 text", "save the file in UTF-8")
    try:
        return check_prompts(line.text)[0]
    except CorgiError as error:
        raise CorgiError(f"{line.where}: {error.problem}", error.remedy) from error
