"""The benchmark of priors at one quality: the same captions for all, and what all of them reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.front import Measured
from benchmarks.prior_quality import Scores
from benchmarks.prior_systems.child import Work
from benchmarks.prior_systems.corgi import Corgi
from benchmarks.prior_systems.quality import Quality, fastest, qualities_of_all, table_of
from benchmarks.prior_systems.system import Case
from corgi_core.evaluation.split_overlap import COLUMNS, SplitOverlap
from corgi_core.prior.model import PriorModel
from tests.helpers.captioned_stores import DIMS, TOKEN, captioned_stores


def test_a_child_learns_and_samples_the_captions_that_are_scored(tmp_path: Path) -> None:
    made = captioned_stores(tmp_path)
    stores, images = tmp_path / "stores", Path(str(made.dataset.folder))
    made.images.save(stores / "image_embeddings")
    made.texts.save(stores / "text_embeddings")
    rows = next(made.dataset.iter_rows("key", "split"))
    near = rows.loc[rows["split"] == "test", ["key", "split"]].head(1)
    SplitOverlap({}, near.reindex(columns=COLUMNS)).save(stores / "split_overlap")
    case = Case(
        "quality", dim=sum(DIMS), batch=8, text_tokens=6, text_width=TOKEN + 2, width=16, layers=1,
        heads=2, noise_samples=2, seconds=600, held_out=1000, stores=str(stores),
        images=str(images),
    )  # fmt: skip
    work = Work(Corgi, case)
    assert work.used > 0  # the Gaussians' fit
    system = work.system
    assert isinstance(system, Corgi)
    bank, settings = system.model.bank, system.settings
    # Not compiled, which would take longer than all else.
    system.model = PriorModel(system.network, bank, settings, encoders={}, card={})
    trained = work.learn(0.2)
    assert trained["steps"] > 0
    measured = Measured.load(stores, images, "test", 1000)
    for split, count in (("test", len(measured.held_out)), ("validation", None)):
        path = tmp_path / f"{split}.safetensors"
        answer = work.sample(split, steps=2, guidance=1.5, path=str(path))
        z = load_file(path)["z"]
        assert z.shape == (answer["captions"], sum(DIMS))
        assert count in (None, len(z))
    found = Scores.of(stores, images, 1000)
    assert len(found.images) == len(z)
    own = found(found.images)
    assert own["frechet"] == pytest.approx(0, abs=1e-6)
    assert own["recall_at_5"] == 1
    assert found(z)["frechet"] > 0
    assert work.rate(batch=2, steps=2, guidance=1)["seconds"] > 0


def test_the_quality_is_the_best_that_all_systems_reach() -> None:
    def row(system: str, steps: int, frechet: float, recall: float, guidance: float = 1) -> Any:
        scores = {"frechet": frechet, "recall_at_5": recall}
        return {"system": system, "steps": steps, "guidance": guidance, **scores}

    rows = [
        row("corgi", 1, 0.3, 0.6), row("corgi", 4, 0.1, 0.5), row("corgi", 4, 0.11, 0.55, 2),
        row("peer", 4, 0.4, 0.3), row("peer", 16, 0.2, 0.4), row("peer", 16, 0.3, 0.5, 2),
    ]  # fmt: skip
    found = qualities_of_all(rows)
    assert found == {"frechet": Quality(0.2, 0.4), "recall": Quality(0.3, 0.5)}
    ours, peer = rows[:3], rows[3:]
    assert fastest(ours, found["frechet"]) == ours[1]
    assert fastest(ours, found["recall"]) == ours[0]
    assert fastest(peer, found["frechet"]) == peer[1]
    assert fastest(peer, Quality(0.1, 0.5)) is None


def test_the_table_says_who_is_faster_and_what_is_not_reached() -> None:
    def report(system: str, rate: float | None) -> Any:
        scores: dict[str, Any] = {
            f"{name}{end}": 0.25
            for name in ("recall_at_5", "frechet")
            for end in ("", "_ci_low", "_ci_high")
        }
        about = {"system": system, "steps": 4, "guidance": 1.5, "quality": "frechet"}
        rates = {} if rate is None else {"per_second": {1: 1.0, 16: rate}}
        return {**about, **scores, "reached": rate is not None, **rates}

    reports = [report("corgi", 300.0), report("peer", 2.0), report("slow", None)]
    lines = table_of(reports, {"frechet": Quality(0.2, 0.4)}, (1, 16)).splitlines()
    assert lines[3].endswith("| 1 | 2 | 150.0 |")
    assert lines[4].count("not reached") == 2
