"""Pages of a suite's pictures: one a category, models side by side, and one that leads there.

A page is one file that loads nothing else: its pictures are in it, as WebP of at most 160 pixels.
So a category of PartiPrompts (136 prompts, two models, four seeds) is a file of a few megabytes
that can be sent to someone. It is written row by row, and memory holds one picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file
from corgi_core.io.html_pages import head, picture, webp
from corgi_core.progress import track
from corgi_core.suites.folder import SuiteFolder
from corgi_core.suites.prompts import Prompt

INDEX = "index.html"
LARGEST = 160  # pixels of a picture's longer side
STYLE = """
nav a { display: inline-block; padding: .7rem .9rem .7rem 0; }
article { border-top: 1px solid #8886; padding: .8rem 0; content-visibility: auto;
  contain-intrinsic-size: auto 240px; }
h2 { font-size: 1rem; font-weight: 600; margin: 0 0 .5rem; max-width: 60rem; }
h2 small { font-weight: 400; opacity: .7; }
.models { display: flex; flex-wrap: wrap; gap: .6rem 1.6rem; }
img, .missing { border-radius: 4px; height: 128px; object-fit: contain; width: 128px; }
.missing { align-content: center; border: 1px dashed #888; box-sizing: border-box;
  font-size: .8rem; text-align: center; }
"""


def write_gallery(folder: SuiteFolder, seeds: Sequence[int]) -> Path:
    """Write a page for each category, and the index that leads to them.

    Args:
        folder: The suite's, with the pictures of one model at least.
        seeds: Whose pictures are put side by side; one that is missing is named as such.

    Returns:
        The index.

    Raises:
        CorgiError: If a picture cannot be read.
    """
    categories, models = folder.suite.by_category(), folder.models
    names = _page_names(list(categories))
    for category in track(categories, "pages"):
        with (
            atomic_file(folder.path / names[category]) as temporary,
            temporary.open("w", encoding="utf-8") as page,
        ):
            page.writelines(_page(folder, category, categories[category], models, seeds))
    links = "".join(
        f'<a href="{escape(names[category])}">{escape(category)} ({len(prompts)})</a>'
        for category, prompts in categories.items()
    )
    index = folder.path / INDEX
    with atomic_file(index) as temporary:
        temporary.write_text(
            head(folder.suite.name, STYLE)
            + f"<p>{len(folder.suite.prompts)} prompts, {len(models)} models: "
            + f"{escape(', '.join(models))}; the seeds {', '.join(map(str, seeds))}.</p>"
            + f"<nav>{links}</nav><h2>What made the pictures</h2><dl>"
            + "".join(_origin(model, folder.made_by(model)) for model in models)
            + "</dl>",
            encoding="utf-8",
        )
    return index


def _page_names(categories: Sequence[str]) -> dict[str, str]:
    """A file name for each category, all of them different in any file system."""
    names: dict[str, str] = {}
    for number, category in enumerate(categories, start=1):
        plain = re.sub(r"[^a-z0-9]+", "-", category.lower()).strip("-")[:40]
        names[category] = f"category-{number:02d}-{plain}.html".replace("-.", ".")
    return names


def _page(
    folder: SuiteFolder,
    category: str,
    prompts: Sequence[Prompt],
    models: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[str]:
    yield head(f"{category} – {folder.suite.name}", STYLE)
    yield f'<nav><a href="{INDEX}">All categories</a></nav>'
    for prompt in prompts:
        challenge = f" <small>{escape(prompt.challenge)}</small>" if prompt.challenge else ""
        yield f'<article id="{prompt.number}"><h2 dir="auto">{prompt.number}. '
        yield f'{escape(prompt.text)}{challenge}</h2><div class="models">'
        for model in models:
            yield f'<figure><figcaption>{escape(model)}</figcaption><div class="pictures">'
            for seed in seeds:
                yield _cell(folder.picture(model, prompt.number, seed), f"{model}, seed {seed}")
            yield "</div></figure>"
        yield "</div></article>\n"


def _origin(model: str, made_by: Mapping[str, Any]) -> str:
    """A model's name, and all that was noted of it: a diffusers pipeline's defaults too."""
    known = {**made_by, **made_by.get("options", {})}
    facts = [f"{name} {value}" for name, value in known.items() if name != "options"]
    text = ", ".join(facts) or "pictures from elsewhere"
    return f"<dt>{escape(model)}</dt><dd>{escape(text)}</dd>"


def _cell(path: Path, label: str) -> str:
    """The picture as an element that carries its pixels, or a box that says that it is missing."""
    if not path.exists():
        return f'<div class="missing" title="{escape(label)}">missing</div>'
    return picture(_thumbnail(path), label)


def _thumbnail(path: Path) -> bytes:
    try:
        with Image.open(path) as image:
            return webp(image, LARGEST)
    except OSError as error:
        raise CorgiError(
            f"{path} cannot be read as a picture", "remove it, and run `corgi suite` again"
        ) from error
