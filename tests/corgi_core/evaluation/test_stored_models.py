"""What names a model: its weights and its settings. What was asked for is what is opened."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from corgi_core.config import PCASettings, PriorSettings, preset_named
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.errors import CorgiError
from corgi_core.evaluation.predictors import PriorSamples
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.io.model_index import digest_in
from corgi_core.prior.model import PriorModel
from tests.helpers.tiny_prior import made_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> PriorModel:
    task = made_prior(tmp_path_factory.mktemp("arrays"))
    return PriorModel(task.build(), task.bank, task.settings, task.texts.spec, card={})


def of(prior: PriorModel, settings: PriorSettings) -> PriorModel:
    """The same weights with other settings."""
    return PriorModel(prior.network, prior.bank, settings, prior.encoders, card={})


@pytest.mark.parametrize("change", [{"guidance": 2.0}, {"num_steps": 3}, {"sampler": "ddim"}])
def test_the_data_version_of_a_prior_includes_how_it_samples(
    prior: PriorModel, tmp_path: Path, change: dict[str, object]
) -> None:
    other = of(prior, replace(prior.settings, **change))
    digests = set()
    for number, model in enumerate((prior, other, prior)):
        folder = tmp_path / str(number)
        model.save(folder)
        stored = StoredPrior.load(folder)
        assert stored.digest == model.digest == digest_in(folder) == PriorModel.load(folder).digest
        digests.add((stored.digest, PriorSamples(stored, (4,), 0).digest))
    assert len(digests) == 2
    assert not set.intersection(*map(set, digests))


def test_how_the_weights_were_trained_is_no_part_of_it(prior: PriorModel) -> None:
    training = replace(prior.settings.training, cache_gigabytes=1.0, checkpoint_every=7)
    assert of(prior, replace(prior.settings, training=training)).digest == prior.digest


def test_the_data_version_of_a_decoder_includes_how_it_samples(tmp_path: Path) -> None:
    settings = preset_named("emoji-small").decoder
    assert isinstance(settings, PCASettings)
    shape = PCAShape(
        embedding_width=8, image_size=8, components=4, width=8, vectors=2, vector_width=4
    )
    network, encoders = PCANetwork(shape), {"encoder_dims": [8]}
    settings = replace(settings, image_size=8, components=4, width=8, vectors=2, vector_width=4)
    plain, guided, slower = (
        PCADecoder(network, replace(settings, **change), encoders, card={})
        for change in ({"guidance": 1.0}, {"guidance": 2.0}, {"guidance": 1.0, "num_steps": 9})
    )
    assert len({plain.digest, guided.digest, slower.digest}) == 3
    guided.save(tmp_path)
    assert StoredDecoder.load(tmp_path).digest == guided.digest == digest_in(tmp_path)


def test_a_folder_that_holds_another_model_by_now_is_refused(
    prior: PriorModel, tmp_path: Path
) -> None:
    prior.save(tmp_path / "prior")
    asked = pickle.loads(pickle.dumps(StoredPrior.load(tmp_path / "prior")))  # as workers get it
    assert asked.open("cpu", "fp32").digest == prior.digest
    of(prior, replace(prior.settings, guidance=2.0)).save(tmp_path / "prior")
    with pytest.raises(CorgiError, match=f"held the model {prior.digest} and holds ") as refused:
        asked.open("cpu", "fp32")
    assert "run it again" in refused.value.remedy
