"""Pages of one file that load nothing: the head, tables that sort, pictures as data."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import NamedTuple

from PIL import Image

QUALITY = 80  # of WebP
SECURITY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; }
figure { margin: 0; }
figcaption { font-size: .85rem; opacity: .75; }
.pictures { display: flex; flex-wrap: wrap; gap: .3rem; }
"""
TABLE_STYLE = """
.table { margin: .8rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8885; padding: .35rem .6rem; text-align: right;
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { background: Canvas; left: 0; min-width: 8.5rem; position: sticky;
  text-align: left; white-space: normal; }
td small { display: block; opacity: .75; }
th button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit;
  font-weight: 600; min-height: 2.2rem; padding: 0; text-align: inherit; }
th[aria-sort] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
"""
SORTING = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const up = head.ariaSort === "descending";  // the largest numbers come first
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.ariaSort = up ? "ascending" : "descending";
  const value = (row) => row.cells[head.cellIndex].dataset.value;
  const order = (a, b) => isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b;
  const isThere = (row) => value(row) !== undefined;
  const rows = [...body.rows].sort((a, b) => isThere(b) - isThere(a)
    || (isThere(a) ? order(value(a), value(b)) * (up ? 1 : -1) : 0));
  body.append(...rows);
};
"""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What is displayed.
        value: What the table is sorted by; None where nothing is known, which sorts last.
        note: Displayed below, smaller; "" for nothing.
    """

    text: str
    value: float | str | None
    note: str = ""


def head(title: str, style: str = "") -> str:
    """The start of a page, down to its heading; `style` is CSS beside the `STYLE` of all pages."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style><h1>{escape(title)}</h1>\n"
    )


def content_security_policy(html: str, pictures: str = "'self'") -> str:
    """A policy for a served page: its own script and style, its own server, nothing else.

    Args:
        html: The page, whose `<script>` and `<style>` elements have no attributes.
        pictures: Where pictures may come from, such as "'self' data:".
    """
    allowed = {
        name: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{name}>(.*?)</{name}>", html, re.S)
        )
        for name in ("script", "style")
    }
    return (
        f"default-src 'none'; img-src {pictures}; connect-src 'self'; "
        f"script-src {allowed['script']}; style-src {allowed['style']}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text, in which words between backticks are code."""
    parts = escape(text).split("`")
    inner = "".join(f"<code>{each}</code>" if n % 2 else each for n, each in enumerate(parts))
    return f"<p>{inner}</p>\n"


def section(title: str, text: str) -> str:
    """The heading of a part of a page, and a `paragraph` that says how to read it."""
    return f"<h2>{escape(title)}</h2>\n{paragraph(text)}"


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that is sorted by the column whose head is pressed, with `TABLE_STYLE`, `SORTING`.

    Args:
        heads: The heads of the columns; the first column has the rows' names.
        rows: Their cells, in the order in which they are displayed first.
    """
    top = "".join(f'<th scope="col"><button>{escape(each)}</button></th>' for each in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return (
        f'<div class="table"><table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody>'
        "</table></div>\n"
    )


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<td{value}>{escape(cell.text)}{note}</td>"


def webp(image: Image.Image, largest: int) -> bytes:
    """A picture as WebP of at most `largest` pixels to its longer side."""
    small = image.convert("RGB")
    small.thumbnail((largest, largest))
    content = BytesIO()
    small.save(content, format="WEBP", quality=QUALITY)
    return content.getvalue()


def picture(content: bytes, label: str) -> str:
    """An `img` element with a WebP's bytes; `label` is its alternative text and its title."""
    label, data = escape(label), base64.b64encode(content).decode()
    return f'<img alt="{label}" title="{label}" src="data:image/webp;base64,{data}">'
