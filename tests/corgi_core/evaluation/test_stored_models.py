"""What names the results of a model: its weights and its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corgi_core.evaluation.prior_scores import Predicted
from corgi_core.evaluation.sampling import Sampled
from corgi_core.evaluation.stored_models import StoredPrior
from corgi_core.prior.model import PriorModel
from tests.helpers.tiny_prior import made_prior


def test_other_guidance_of_the_same_weights_has_other_results(tmp_path: Path) -> None:
    task = made_prior(tmp_path / "arrays")
    network = task.build()
    stored = []
    for guidance in (1.0, 2.0, 1.0):
        folder = tmp_path / str(len(stored))
        settings = replace(task.settings, guidance=guidance)
        PriorModel(network, task.bank, settings, task.texts.spec, card={}).save(folder)
        stored.append(StoredPrior.load(folder))
    for case in (lambda prior: Sampled(prior, 0), lambda prior: Predicted(prior, (4,), 0)):
        plain, guided, again = (case(prior).digest for prior in stored)
        assert plain == again
        assert plain != guided
