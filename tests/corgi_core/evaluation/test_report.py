"""The evaluation as an artefact."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image
from upath import UPath

from corgi_core.errors import CorgiError
from corgi_core.evaluation.report import BASELINES, PICTURE_BASELINES, Evaluation
from tests.helpers.protocols import a_protocol


def scores(cosine: float) -> dict[str, object]:
    return {"cosine": cosine, "cosine_by_encoder": {"a": cosine}, "recall_at_1": 0.5,
            "count": 9, "seconds": 1.25}  # fmt: skip


def at_own_steps(cosine: float) -> dict[str, object]:
    return scores(cosine) | {"shuffled": scores(0.3)}


def picture_rows() -> dict[str, object]:
    return {name: {"none": {"frechet_clip": 0.1}} for name in PICTURE_BASELINES}


def of_prior(frechet: float) -> dict[str, object]:
    return {"frechet_clip": frechet, "shuffled": {"clip_score": 10 * frechet + 2}}


def metrics() -> dict[str, object]:
    return {
        "protocol": a_protocol(prior_steps=16).stored,
        "baselines": {name: scores(0.2) for name in BASELINES},
        "priors": {
            "baseline": {"10%": {"1": scores(0.99), "16": at_own_steps(0.70)}},
            "shifted-k1": {
                "10%": {"1": scores(0.10), "16": at_own_steps(0.72)},
                "100%": {"1": scores(0.30), "16": at_own_steps(0.81)},
            },
        },
        "pictures": picture_rows()
        | {"real embedding": {"none": {"frechet_clip": 0.5, "seconds": 3.0}}}
        | {"baseline": {"10%": of_prior(0.7)}}
        | {"shifted-k1": {subset: of_prior(0.8) for subset in ("10%", "100%")}},
        "validation": {
            "captions": 5,
            "priors": {
                "baseline": {"10%": scores(0.60)},
                "shifted-k1": {"10%": scores(0.75), "100%": scores(0.71)},
            },
        },
        "wall_seconds": 12.5,
    }


@pytest.fixture
def report() -> Evaluation:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Evaluation(metrics(), {"pictures_10_percent": Image.fromarray(pixels)})


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_is_saved_is_loaded(report, tmp_path, where):
    folder = UPath(tmp_path if where == "local" else f"memory://{tmp_path.name}") / "evaluation"
    report.save(folder)
    loaded = Evaluation.load(folder)
    assert loaded.metrics == report.metrics
    assert loaded.digest == report.digest
    assert loaded.pictures.keys() == report.pictures.keys()
    for name, picture in report.pictures.items():
        np.testing.assert_array_equal(np.asarray(loaded.pictures[name]), np.asarray(picture))


def test_where_there_is_none_it_says_so(tmp_path):
    with pytest.raises(CorgiError, match="no evaluation"):
        Evaluation.load(UPath(tmp_path))


def test_the_digest_is_of_the_scores_and_not_of_the_clock(report):
    slower = copy.deepcopy(report.metrics)
    slower["wall_seconds"] = 99.0
    slower["priors"]["baseline"]["10%"]["16"]["seconds"] = 99.0
    slower["pictures"]["real embedding"]["none"]["seconds"] = 99.0
    assert slower != report.metrics
    assert Evaluation(slower).digest == report.digest
    better = copy.deepcopy(report.metrics)
    better["priors"]["baseline"]["10%"]["16"]["cosine"] = 0.71
    assert Evaluation(better).digest != report.digest


def test_the_best_prior_is_best_on_the_validation_images_whatever_the_test_says(report):
    assert report.best_prior() == ("shifted-k1", "10%")  # 100 % are better on the test images
    assert report.best_prior([("baseline", "10%"), ("shifted-k1", "100%")])[0] == "shifted-k1"
    report.metrics["validation"]["priors"]["baseline"]["10%"] = scores(0.76)
    assert report.best_prior() == ("baseline", "10%")


def test_an_older_evaluation_without_validation_scores_names_no_best_prior(report):
    del report.metrics["validation"]
    with pytest.raises(CorgiError, match="no validation scores") as error:
        report.best_prior()
    assert error.value.remedy == "materialise `evaluation` again"


def test_tables_hold_a_row_for_every_score(report):
    table = report.prior_table()
    assert len(table) == 6
    assert len(report.validation_table()) == 3
    row = table.query("variant == 'shifted-k1' and captions == '100%' and steps == 16")
    assert row["cosine"].item() == 0.81
    assert "cosine_by_encoder" not in table.columns
    baselines = report.baseline_table()
    assert baselines["baseline"].tolist() == [
        *BASELINES, "baseline, shuffled captions", *["shifted-k1, shuffled captions"] * 2
    ]  # fmt: skip
    assert baselines["cosine"].tolist() == [0.2] * len(BASELINES) + [0.3] * 3
    *first, row, _, _, _, control, _, _ = report.picture_table().to_dict("records")
    assert [each["embeddings"] for each in first] == list(PICTURE_BASELINES)
    assert (row["embeddings"], row["captions"]) == ("real embedding", "none")
    assert row["frechet_clip"] == 0.5
    assert control["embeddings"] == "baseline, shuffled captions"
    assert control["clip_score"] == 9.0


@pytest.mark.parametrize(
    ("path", "named"),
    [
        *((("baselines", name), name) for name in BASELINES),
        *((("pictures", name), rf"{name} \(pictures\)") for name in PICTURE_BASELINES),
        (("priors", "shifted-k1", "10%", "16", "shuffled"), "shifted-k1, 10%, shuffled captions"),
        (("pictures", "baseline"), r"baseline, 10% \(pictures\)"),
        (("pictures", "shifted-k1", "100%"), r"shifted-k1, 100% \(pictures\)"),
        (("pictures", "baseline", "10%", "shuffled"), r"baseline, 10%, shuffled .* \(pictures\)"),
    ],
)
def test_a_report_that_lacks_a_row_is_refused_by_its_name(report, tmp_path, path, named):
    part = report.metrics
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    for written in (report.save, report.publish):
        with pytest.raises(CorgiError, match=rf"lacks a row .*: {named}\."):
            written(tmp_path / "evaluation")
    assert not list(tmp_path.iterdir())


def test_a_report_of_priors_alone_needs_no_rows_of_pictures(report, tmp_path):
    del report.metrics["pictures"]
    report.save(tmp_path / "evaluation")
