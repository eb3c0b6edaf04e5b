"""README and docs/ match the code: links, files, commands, targets and identifiers."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.exceptions import TyperException

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.M | re.S
)
INLINE = re.compile(r"`([^`\n]+)`")
TOP = tuple(path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "reports")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def fences(page: Path, *languages: str) -> Iterator[str]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match["language"] in languages:
            yield match["body"]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@every_page
def test_every_relative_link_resolves(page: Path) -> None:
    text = prose(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: the page has no such heading"


@every_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    for code in INLINE.findall(prose(page)):
        path = code.rstrip("/")
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+", path) and path.startswith(TOP):
            assert (ROOT / path).exists(), f"`{code}` does not exist"


def commands(page: Path) -> Iterator[str]:
    """The `corgi` commands of the page's shell blocks, continued lines joined."""
    for block in fences(page, "", "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            bare = re.sub(r"^\s*(\$ )?((\w+=\S+|env) )*", "", line)
            if re.match(r"(\.venv/bin/)?corgi( |$)", bare):
                yield bare


def parse(words: list[str]) -> None:
    """Parse one command line as the command line does, without running it.

    Raises:
        TyperException: when a command, an option or a value is unknown.
    """
    from orchestration.cli.app import cli

    command = typer.main.get_command(cli)
    name = "corgi"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            raise TyperException(f"no command {name}")
        command = command.commands[name]
    with contextlib.suppress(typer.Exit):  # --help and --version end the parsing
        command.make_context(name, words)


@every_page
def test_every_command_on_a_page_parses(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "dog.png", "my.yaml"):
        (tmp_path / name).touch()
    for command in commands(page):
        _, *words = shlex.split(command, comments=True)
        try:
            parse(words)
        except TyperException as error:
            pytest.fail(f"{command}: {error.format_message()}")


def test_an_unknown_option_or_command_is_found() -> None:
    with pytest.raises(TyperException):
        parse(["generate", "a cat", "--no-such-option"])
    with pytest.raises(TyperException):
        parse(["no-such-command"])


@every_page
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = [code for code in INLINE.findall(prose(page)) if code.startswith("make ")]
    found += [
        line for block in fences(page, "", "sh", "bash") for line in block.splitlines()
        if line.startswith("make ")
    ]  # fmt: skip
    for command in found:
        target = command.split()[1]
        assert re.search(rf"^{target}:", makefile, re.M), f"{command}: no such target"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    linked = set(re.findall(r": (\S+\.md)$", text, re.M))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == linked


def test_the_documented_packages_exist() -> None:
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for module in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            path = ROOT / module.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page.name}: {module}"


def test_the_citation_is_yaml() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"


def source_words() -> set[str]:
    folders = ("corgi_core", "assets", "orchestration", "benchmarks", "tests", "infra")
    suffixes = {".py", ".yaml", ".yml", ".toml"}
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    paths += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "dvc.yaml"]
    texts = (
        path.read_text(encoding="utf-8")
        for path in paths
        if path.suffix in suffixes or path.name == "Makefile"
    )
    return {word for text in texts for word in re.findall(r"\w+", text)}


def test_every_identifier_that_is_named_is_in_the_code() -> None:
    known = source_words()  # of identifiers with an underscore: plain words prove nothing
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # which names what is gone
            continue
        for code in INLINE.findall(prose(page)):
            for name in re.findall(r"\w+", code) if re.fullmatch(r"[\w.]+", code) else ():
                if "_" in name.strip("_"):
                    assert name in known, f"{page_id(page)}: `{code}` is not in the code"
