"""`corgi rate` from its page to its results, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner

from corgi_core.rating.votes import VoteStore
from orchestration.cli.app import cli
from tests.helpers.surveys import small_suite

RATER = "rater-0001"


def test_votes_that_come_in_are_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_suite(tmp_path, ["ours", "sd", "gan"])

    def someone_votes(server: uvicorn.Server, sockets: list) -> None:
        store = VoteStore(tmp_path / "votes.sqlite")
        for slot in store.survey.slots(RATER)[:3]:
            ranks = [1, 2] if slot.models[0] == "ours" else [2, 1]
            answers = {"alignment": ranks, "fidelity": [1, 1], "seconds": 3}
            store.record(f"key-{slot.number:06}", slot, RATER, answers, store.survey.digest)
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", someone_votes)
    words = ["rate", str(tmp_path), "--model", "ours", "--model", "sd", "--questions", "5"]
    served = CliRunner().invoke(cli, [*words, "--port", "18123"])
    assert served.exit_code == 0, served.output
    assert "http://127.0.0.1:18123: 5 questions by pairs on ours, sd; 0 votes" in served.output
    assert "3 votes are in" in served.output

    results = CliRunner().invoke(cli, ["rate", str(tmp_path), "--results"])
    assert results.exit_code == 0, results.output
    assert "| ours | 100% (44%–100%) | 0% (0%–56%) | 0% (0%–56%) | sd | 3 |" in results.output
    found = VoteStore(tmp_path / "votes.sqlite")
    other = VoteStore.create(tmp_path / "more.sqlite", found.survey)
    slot = other.survey.slots(RATER)[0]
    ranks = {"alignment": [1, 1], "fidelity": [1, 1], "seconds": 3}
    other.record("key-000000", slot, RATER, ranks, other.survey.digest)
    before = (tmp_path / "ratings.md").read_text()
    words = ["rate", str(tmp_path), "--results", "--votes", str(other.path)]
    assert "more-ratings.md" in CliRunner().invoke(cli, words).output
    assert (tmp_path / "ratings.md").read_text() == before
    assert {"more-ratings.md", "more-ratings.json", "more-votes.csv"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert {"ratings.md", "ratings.json", "votes.csv"} <= {p.name for p in tmp_path.iterdir()}
