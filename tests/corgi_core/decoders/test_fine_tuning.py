"""A decoder goes on from another one, trained on some of the training images only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.data.keys import ListedKeys
from corgi_core.decoders.gan.decoder import GanDecoder
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.task import PCATask
from corgi_core.decoders.task import FineTuning
from corgi_core.errors import CorgiError
from corgi_core.training.identity import identity_of
from corgi_core.training.loop import train
from tests.helpers.gan_shapes import TINY as TINY_GAN
from tests.helpers.gan_shapes import a_gan_task
from tests.helpers.shapes import TINY, a_task, keys_of, pictures_of

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

SHORT = replace(TINY.training, steps=60, learning_rate=1e-3, evaluate_every=60)


def tuned(task: PCATask, decoder: PCADecoder, count: int) -> PCATask:
    settings = replace(task.settings, training=SHORT)
    tuning = FineTuning(decoder, ListedKeys(tuple(keys_of(task)[:count])))
    return replace(task, settings=settings, tuning=tuning)


def test_it_starts_where_the_other_decoder_is(task: PCATask, decoder: PCADecoder) -> None:
    further = tuned(task, decoder, count=3)
    model = further.build()
    further.prepare(model)
    there = decoder.network.state_dict()
    assert all(torch.equal(tensor, there[name]) for name, tensor in model.state_dict().items())


def test_only_the_images_named_are_trained_on_and_they_are_learned(
    task: PCATask, decoder: PCADecoder, tmp_path: Path
) -> None:
    further = tuned(task, decoder, count=2)
    assert further.image_count == 2
    first_two = pictures_of(task)[:2].flatten(1).float()
    used = further.pictures(further.training, torch.arange(further.rows)).pixels.flatten(1)
    assert torch.cdist(used.float(), first_two).min(dim=1).values.max() == 0
    assert further.rows < task.rows
    result = train(further, SHORT, tmp_path / "run")
    z, pixels = task.spaced_embeddings, pictures_of(task) / 255

    def error(model: PCADecoder, rows: slice) -> float:
        return float((model.decode(z[rows]) - pixels[rows]).square().mean())

    after = further.decoder(result.model, {})
    assert isinstance(after, PCADecoder)
    named, others = slice(0, 2), slice(2, None)
    assert error(after, named) < error(decoder, named)
    assert error(after, others) > error(decoder, others)


def test_where_it_starts_and_what_it_is_trained_on_name_the_training(
    task: PCATask, decoder: PCADecoder
) -> None:
    identities = [
        identity_of(each, SHORT)
        for each in (tuned(task, decoder, 2), tuned(task, decoder, 3), task)
    ]
    assert identities[0]["task.tuning.start"] == decoder.digest
    assert len({str(sorted(identity.items())) for identity in identities}) == 3


def test_a_gan_goes_on_from_the_generator_with_a_new_discriminator(tmp_path: Path) -> None:
    task = a_gan_task(tmp_path)
    earlier = task.build()
    decoder = task.decoder(earlier, {})
    assert isinstance(decoder, GanDecoder)
    further = replace(task, tuning=FineTuning(decoder, ListedKeys(tuple(keys_of(task)[:4]))))
    torch.manual_seed(5)
    model = further.build()
    further.prepare(model)
    generator = earlier.generator.state_dict()
    for name, tensor in model.generator.state_dict().items():
        torch.testing.assert_close(tensor, generator[name])
    fresh = zip(model.discriminator.parameters(), earlier.discriminator.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in fresh)
    assert further.image_count == 4
    assert TINY_GAN.kind == further.settings.kind


def test_a_decoder_of_another_kind_size_or_clip_is_refused(
    task: PCATask, decoder: PCADecoder, tmp_path: Path
) -> None:
    other_size = a_task(tmp_path, replace(TINY, components=50))
    small = PCADecoder(
        decoder.network, replace(decoder.settings, image_size=8), decoder.encoders, {}
    )
    other_clip = PCADecoder(
        decoder.network, decoder.settings, {**decoder.encoders, "encoder": "b-clip"}, {}
    )
    gan = a_gan_task(tmp_path / "gan")
    for start, problem in (
        (small, "image_size 8, wanted is 16"),
        (other_clip, "CLIP b-clip, wanted is a-clip"),
        (gan.decoder(gan.build(), {}), "kind gan, wanted is pca"),
    ):
        with pytest.raises(CorgiError, match=problem):
            replace(other_size, tuning=FineTuning(start, task.train_keys))
