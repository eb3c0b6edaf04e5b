"""The front's numbers against the metrics' own functions, on a few made captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.front import LINEAR, Measured, main
from corgi_core.encoders.similarity import recall_at, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.split_overlap import COLUMNS, SplitOverlap
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.metrics.frechet import FeatureStatistics, frechet_distance
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape
from tests.helpers.captioned_stores import DIMS, TOKEN, captioned_stores
from tests.helpers.tiny_prior import SETTINGS


def test_every_prior_is_measured_at_all_steps_and_guidances(tmp_path: Path) -> None:
    made = captioned_stores(tmp_path)
    stores = tmp_path / "stores"
    made.images.save(stores / "image_embeddings")
    made.texts.save(stores / "text_embeddings")
    rows = next(made.dataset.iter_rows("key", "split"))
    near = rows.loc[rows["split"] == "test", ["key", "split"]].head(1)
    SplitOverlap({}, near.reindex(columns=COLUMNS)).save(stores / "split_overlap")
    torch.manual_seed(0)
    network = PriorNetwork(PriorShape(sum(DIMS), TOKEN, 6, 1, width=16, layers=1, heads=2))
    prior = PriorModel(network.eval(), GaussianBank.standard(DIMS), SETTINGS, made.texts.spec, {})
    prior.save(tmp_path / "prior")
    folders = stores, made.dataset.folder, tmp_path / "out"
    main(*map(Path, folders), [f"tiny={tmp_path / 'prior'}"], "test", 1000, "1,4", "1,2")
    rows = json.loads((tmp_path / "out" / "front.json").read_text())
    assert [(row["prior"], row["steps"], row["guidance"]) for row in rows] == [
        *((name, None, None) for name in ("text embedding", *LINEAR, "training images")),
        ("tiny", 1, 1), ("tiny", 1, 2), ("tiny", 4, 1), ("tiny", 4, 2),
    ]  # fmt: skip
    measured = Measured.load(*map(Path, folders[:2]), "test", 1000)
    assert len(measured.held_out) == len(HeldOut.of(made.dataset, 1000, split="test")) - 1
    tokens, mask, text, image = measured.held_out.batch(torch.arange(len(measured.held_out)))
    z = prior.sample(tokens, mask, text, num_steps=4, guidance=2.0, seed=0)
    found = rows[-1]
    for rank, value in recall_at(z, image, (1, 5), DIMS).items():
        assert found[f"recall_at_{rank}"] == pytest.approx(value)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (z, scale_per_encoder(image, DIMS))]
    distance = frechet_distance(*(FeatureStatistics.of(x.numpy()) for x in unit))
    assert found["frechet"] == pytest.approx(distance, rel=1e-3)
    assert found["frechet_ci_low"] < distance < found["frechet_ci_high"]
    assert rows[4]["spread"] < rows[6]["spread"]  # one step has nearly one answer
    table = (tmp_path / "out" / "front.md").read_text()
    assert table.count("\n") == 2 + len(rows)
    assert f"{found['recall_at_5']:.3f} (" in table
    assert (tmp_path / "out" / "front.png").stat().st_size > 10_000


def test_a_prior_without_a_folder_and_words_for_numbers_are_named(tmp_path: Path) -> None:
    from benchmarks.front import _numbers, _priors

    with pytest.raises(CorgiError, match="NAME=FOLDER"):
        _priors(["tiny"])
    with pytest.raises(CorgiError, match="not numbers"):
        _numbers("1,two")
