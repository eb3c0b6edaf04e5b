"""Prompt suites are read as they are published; what cannot be read is named and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from corgi_core.suites.prompts import Prompt, read_suite

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired concepts\n"
    'A frog reading the newspaper named "Toaday" .\tAnimals\tPerspective\t\n'
    '"G I G" in thick letters\tAbstract\n'
)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_partiprompts_have_categories_and_challenges(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path, "PartiPrompts.tsv", PARTI))
    assert suite.name == "PartiPrompts"
    assert suite.prompts == (
        Prompt(1, "bond", "Abstract", "Basic"),
        Prompt(2, 'A frog reading the newspaper named "Toaday" .', "Animals", "Perspective"),
        Prompt(3, '"G I G" in thick letters', "Abstract"),
    )
    numbers = {name: [p.number for p in each] for name, each in suite.by_category().items()}
    assert numbers == {"Abstract": [1, 3], "Animals": [2]}


def test_drawbench_is_csv_or_text(tmp_path: Path) -> None:
    table = read_suite(
        written(tmp_path, "d.csv", 'Prompts,Category\n"A car, red.",Colors\nA cat.,Counting\n')
    )
    assert table.prompts == (
        Prompt(1, "A car, red.", "Colors"), Prompt(2, "A cat.", "Counting"),
    )  # fmt: skip
    text = read_suite(written(tmp_path, "d.txt", "\ufeffA car, red.\r\n\r\n  A cat.\r\n"))
    assert text.prompts == (Prompt(1, "A car, red."), Prompt(2, "A cat."))
    assert text.digest != table.digest


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("s.tsv", "Text of it\tCategory\nbond\tAbstract\n", "no column of prompts; .*Text of it"),
        ("s.tsv", "Prompt\tCategory\n", "has no prompts"),
        ("s.tsv", "Prompt\tCategory\na\tb\tc\n", "line 2 has 3 cells in 2 columns"),
        ("s.csv", 'Prompt,Category\n"never closed,a\nb,c\n', "line 2: bad row"),
        ("s.tsv", "Prompt\tCategory\na\tb\n\tb\n", "line 3: the prompt is empty"),
        ("s.txt", " \n\n", "has no prompts"),
        ("s.txt", b"caf\xe9\n", "line 1 is not UTF-8"),
        ("s.txt", "x" * 2001, "line 1: the prompt has 2,001 characters"),
    ],
)
def test_what_is_no_suite_is_refused(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    with pytest.raises(CorgiError, match=said):
        read_suite(written(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match=r"nowhere\.tsv is no file"):
        read_suite(tmp_path / "nowhere.tsv")
