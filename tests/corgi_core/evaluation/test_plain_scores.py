"""An evaluation's numbers by model, under the names that runs are compared by."""

from __future__ import annotations

from typing import Any

import pytest

from corgi_core.evaluation.plain_scores import baseline_scores, prior_curves, prior_scores

PRIOR = ("shifted-k1", "100%")


def scores(cosine: float) -> dict[str, Any]:
    return {
        "cosine": cosine, "cosine_ci_low": 0.75, "cosine_ci_high": 0.85,
        "cosine_by_encoder": {"a": cosine}, "recall_at_1": 0.5, "count": 9, "seconds": 1.25,
        "near": {"cosine": 0.9, "cosine_ci_low": 0.7, "count": 4},
        "far": {"count": 0},
        "shuffled": {"recall_at_1": 0.1, "count": 9, "near": {"cosine": 0.25, "count": 4}},
    }  # fmt: skip


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {
        "protocol": {"prior_steps": 16},
        "priors": {"shifted-k1": {"100%": {"1": scores(0.3), "16": scores(0.8)}}},
        "validation": {"priors": {"shifted-k1": {"100%": {"cosine": 0.7, "count": 5}}}},
        "baselines": {
            "CLIP text embedding": scores(0.2),
            "ridge": scores(0.6),
            "shuffled captions": {"shifted-k1": {"100%": scores(0.1)}},
        },
        "pictures": {
            "real embedding": {"none": {"frechet_clip": 0.4, "seconds": 3.0}},
            "ridge": {"none": {"fid": 12.0}},
            "shifted-k1": {
                "100%": {
                    "frechet_clip": 0.5,
                    "frechet_clip_ci_low": 0.4,
                    "clip_similarity_image": 0.6,
                    "clip_similarity_text": 0.3,
                    "count": 8,
                }
            },
        },
    }


def test_a_priors_scores_are_those_at_the_protocols_steps(metrics: dict[str, Any]) -> None:
    assert prior_scores(metrics, *PRIOR) == {
        "cosine": 0.8, "cosine_ci_low": 0.75, "cosine_ci_high": 0.85, "recall_at_1": 0.5,
        "cosine_near": 0.9, "cosine_near_ci_low": 0.7, "recall_at_1_shuffled": 0.1,
        "cosine_near_shuffled": 0.25, "validation_cosine": 0.7,
        "frechet_clip": 0.5, "frechet_clip_ci_low": 0.4, "clip_similarity_image": 0.6,
        "clip_similarity": 0.3,
    }  # fmt: skip


def test_an_evaluation_without_pictures_and_validation_has_the_others(
    metrics: dict[str, Any],
) -> None:
    del metrics["pictures"], metrics["validation"]
    assert set(prior_scores(metrics, *PRIOR)) == {
        "cosine", "cosine_ci_low", "cosine_ci_high", "recall_at_1", "cosine_near",
        "cosine_near_ci_low", "recall_at_1_shuffled", "cosine_near_shuffled",
    }  # fmt: skip


def test_curves_go_over_the_sampling_steps(metrics: dict[str, Any]) -> None:
    along = {"999": {"cosine": 0.1, "cosine_ci_low": 0.05}, "499": {"cosine": 0.2}}
    along["499"] |= {"near": {"cosine": 0.25}, "far": {}}
    metrics["priors"]["shifted-k1"]["100%"]["16"]["cosine_by_timestep"] = along
    assert dict(prior_curves(metrics, *PRIOR)) == {
        1: {"cosine_by_steps": 0.3, "recall_at_1_by_steps": 0.5, "cosine_by_steps_near": 0.9},
        16: {"cosine_by_steps": 0.8, "recall_at_1_by_steps": 0.5, "cosine_by_steps_near": 0.9},
        999: {"cosine_by_timestep": 0.1},
        499: {"cosine_by_timestep": 0.2, "cosine_by_timestep_near": 0.25},
    }


def test_all_that_is_no_prior_is_a_baseline(metrics: dict[str, Any]) -> None:
    found = baseline_scores(metrics)
    assert set(found) == {
        "CLIP text embedding", "ridge", "shuffled captions shifted-k1 100%", "real embedding",
    }  # fmt: skip
    assert found["CLIP text embedding"]["cosine"] == 0.2
    assert found["shuffled captions shifted-k1 100%"]["cosine"] == 0.1
    assert found["real embedding"] == {"frechet_clip": 0.4}
    assert (found["ridge"]["cosine"], found["ridge"]["fid"]) == (0.6, 12.0)
