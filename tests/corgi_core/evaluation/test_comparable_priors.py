"""Which priors are evaluated together: those of the present settings and encoders."""

from dataclasses import replace

import pytest
from upath import UPath

from corgi_core.config import PriorSettings, preset_named
from corgi_core.errors import CorgiError
from corgi_core.evaluation.prior_scores import comparable_priors
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape

SETTINGS = replace(preset_named("emoji-small").prior, width=16, layers=1, heads=2)
ENCODERS = {"encoder": "e1", "width": 4, "encoder_dims": [4], "text_width": 3, "text_tokens": 2}


def saved_and_loaded(
    folder: UPath, settings: PriorSettings = SETTINGS, encoder: str = "e1"
) -> PriorModel:
    network = PriorNetwork(PriorShape(4, 3, 2, gaussians=1, width=16, layers=1, heads=2))
    encoders = ENCODERS | {"encoder": encoder}
    PriorModel(network, GaussianBank.standard([4]), settings, encoders, {}).save(folder)
    return PriorModel.load(folder)


def test_a_stale_prior_is_left_out(tmp_path):
    folder = UPath(tmp_path)
    priors = {
        ("baseline", "100%"): saved_and_loaded(folder / "a"),
        ("shifted-k1024-learned", "10%"): saved_and_loaded(folder / "b"),
        ("shifted-k128", "100%"): saved_and_loaded(folder / "c", replace(SETTINGS, num_steps=9)),
        ("shifted-k1", "1.7%"): saved_and_loaded(folder / "d", encoder="e2"),
    }
    models = comparable_priors(priors, SETTINGS, ENCODERS)
    assert set(models) == {("baseline", "100%"), ("shifted-k1024-learned", "10%")}
    assert models["baseline", "100%"] is priors[("baseline", "100%")]
    del priors[("baseline", "100%")], priors[("shifted-k1024-learned", "10%")]
    with pytest.raises(CorgiError, match="none of 2 priors"):
        comparable_priors(priors, SETTINGS, ENCODERS)
