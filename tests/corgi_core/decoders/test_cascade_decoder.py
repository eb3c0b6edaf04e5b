"""A trained cascade decodes its embeddings; one with perfect predictions decodes them exactly."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corgi_core.config import CascadeSettings, StageSettings
from corgi_core.data.arrays import Arrays, ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import ListedKeys
from corgi_core.data.pixels import pixels
from corgi_core.data.ragged import RaggedArray
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.memory import GB, image_memory
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape, downsampled
from corgi_core.decoders.cascade.task import CascadeTask
from corgi_core.decoders.cascade.unet import Stage
from corgi_core.decoders.decoder import SampleOptions, TextCond, signed
from corgi_core.decoders.registry import load_decoder
from corgi_core.diffusion.parameterization import target
from corgi_core.diffusion.schedule import Schedule
from corgi_core.encoders.tokens import padded, unpacked
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom
from tests.helpers.cascades import TINY_CASCADE, a_cascade_task, altered, trained_cascade
from tests.helpers.losses import loss_of
from tests.helpers.shapes import KNOWN, SHAPES, SIDE, WIDTH, keys_of, knowing_half, pictures_of

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

ENCODERS = {"encoder_dims": [WIDTH], "width": WIDTH}
OPTIONS = SampleOptions(seed=0, sample_ids=[0], num_steps=1, guidance=1.0)
CLEAR_REFS = Path("/proc/self/clear_refs")


@pytest.fixture(scope="module")
def cascade_task(tmp_path_factory: pytest.TempPathFactory) -> CascadeTask:
    return a_cascade_task(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def known_task(cascade_task: CascadeTask) -> CascadeTask:
    return knowing_half(cascade_task)


@pytest.fixture(scope="module")
def cascade(known_task: CascadeTask, tmp_path_factory: pytest.TempPathFactory) -> CascadeDecoder:
    return trained_cascade(known_task, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def z(cascade_task: CascadeTask) -> Tensor:
    return cascade_task.spaced_embeddings


def fresh(settings: CascadeSettings = TINY_CASCADE, seed: int = 0) -> CascadeDecoder:
    torch.manual_seed(seed)
    network = CascadeNetwork(CascadeShape.of(settings, WIDTH)).eval()
    return CascadeDecoder(network, settings, ENCODERS, card={})


def test_every_picture_is_nearest_to_its_own_original(
    cascade: CascadeDecoder, known_task: CascadeTask
) -> None:
    z, real = known_task.spaced_embeddings, pictures_of(known_task) / 255
    decoded = cascade.decode(z)
    nearest = torch.cdist(decoded.flatten(1), real.flatten(1)).argmin(dim=1)
    assert torch.equal(nearest, torch.arange(KNOWN))
    error = (decoded - real).square().mean().sqrt()
    assert error < 0.15, error  # the shapes themselves are this far apart: > 0.3 on average
    turned = cascade.decode(z.roll(1, dims=0)).flatten(1)
    assert (torch.cdist(turned, real.flatten(1)).argmin(dim=1) != torch.arange(KNOWN)).all()


def test_every_stage_is_measured_by_its_own_images(
    cascade: CascadeDecoder, known_task: CascadeTask
) -> None:
    """From real images of the size before, the second stage samples what is held out."""
    first, second = cascade.card["metrics"].values()
    for metrics in (first, second):
        assert 0 < metrics["held_out_loss"] < 0.5
        assert metrics["held_out_pixel_error"] < 0.15
    pictures = signed(known_task.parts()["stage-16"].held_out[0])
    options = SampleOptions(0, range(KNOWN), TINY_CASCADE.num_steps, TINY_CASCADE.guidance)
    with torch.no_grad():
        z = known_task.spaced_embeddings
        sampled = cascade.sample_stage(1, downsampled(pictures, 8), z, None, options)
    error = ((sampled - pictures) / 2).square().mean().sqrt()
    assert second["held_out_pixel_error"] == pytest.approx(float(error), rel=1e-3)


class Oracle(nn.Module):
    """Predicts the true target of a known image at any x_t."""

    def __init__(self, x_0: Tensor, stage: StageSettings, prediction: str) -> None:
        super().__init__()
        self.x_0, self.prediction = x_0, prediction
        self.alpha_bar = Schedule.shifted_cosine(stage.noise_shift).alphas_cumprod
        self.low: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, *_: object) -> Tensor:
        alpha_bar = self.alpha_bar[t]
        self.low.append(x[:, 3:])
        a = alpha_bar.view(-1, 1, 1, 1)
        noise = (x[:, :3] - a.sqrt() * self.x_0) / (1 - a).sqrt()
        return target(self.prediction, self.x_0, noise, alpha_bar)


@pytest.mark.parametrize("prediction", ["v", "epsilon", "x0"])
@pytest.mark.parametrize("steps", [1, 5])
def test_perfect_predictions_give_the_images(
    cascade_task: CascadeTask, z: Tensor, prediction: str, steps: int
) -> None:
    settings = altered(prediction=prediction, sampling_noise=0.0)
    decoder, pictures = fresh(settings), signed(pictures_of(cascade_task))
    decoder.network.stages = nn.ModuleList(
        Oracle(downsampled(pictures, stage.size), stage, prediction) for stage in settings.stages
    )
    decoded = decoder.decode(z, num_steps=steps)
    torch.testing.assert_close(decoded, (pictures + 1) / 2, atol=2e-3, rtol=0)
    condition = decoder.network.stages[1].low[0]  # with no noise, the smaller picture itself
    small = nn.functional.interpolate(downsampled(pictures, 8), size=(SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(condition, small, atol=5e-3, rtol=0)


def test_a_picture_depends_on_seed_and_number_only(
    cascade: CascadeDecoder, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, few = cascade.decode(z, seed=5), cascade.decode(z[:3], seed=5)
    torch.testing.assert_close(many[:3], few, atol=1e-3, rtol=0)
    monkeypatch.setattr("corgi_core.decoders.cascade.decoder.BATCH_PIXELS", 5 * SIDE**2)
    torch.testing.assert_close(cascade.decode(z, seed=5), many, atol=1e-3, rtol=0)
    assert (cascade.decode(z[:3], seed=6) - few).abs().max() > 1e-2


def test_guidance_needs_dropout_and_changes_the_picture(cascade: CascadeDecoder, z: Tensor) -> None:
    guided = cascade.decode(z[:2], guidance=2.0)
    assert (guided - cascade.decode(z[:2])).abs().max() > 1e-3
    without_dropout = replace(cascade.settings, cond_dropout=0.0)
    unguidable = CascadeDecoder(cascade.network, without_dropout, cascade.encoders, card={})
    with pytest.raises(CorgiError, match="dropout"):
        unguidable.decode(z[:1], guidance=2.0)


def test_save_and_load_give_the_same_decoder(
    cascade: CascadeDecoder, z: Tensor, tmp_path: Path
) -> None:
    cascade.save(tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")
    assert isinstance(loaded, CascadeDecoder)
    assert loaded.digest == cascade.digest
    assert loaded.settings == cascade.settings
    assert loaded.network.shape == cascade.network.shape
    torch.testing.assert_close(loaded.decode(z, seed=1), cascade.decode(z, seed=1))


class LowResolution(nn.Module):
    """Predicts its condition, the upsampled low-resolution image, as x_0: pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: set[int] = set()

    def forward(self, x: Tensor, *_: object) -> Tensor:
        self.sides.add(x.shape[-1])
        return x[:, 3:]


def large_stages(low: int, size: int) -> tuple[StageSettings, ...]:
    return tuple(
        StageSettings(
            size=side,
            channels=(8, 16),
            layers=1,
            attention_levels=int(side == low),
            noise_shift=0.0,
        )
        for side in (low, size)
    )


def test_a_large_image_in_tiles_is_the_image_at_once(cascade_task: CascadeTask, z: Tensor) -> None:
    """At 128 pixels, by a network that looks no further than its pixel, through both stages.

    It is in tiles only where there is no memory for it.
    """
    images = nn.functional.interpolate(signed(pictures_of(cascade_task)[:2]), scale_factor=2)
    decoded = []
    for memory, side in ((1e-6, 48), (None, 128)):
        settings = altered(
            image_size=128, stages=large_stages(32, 128), prediction="x0", sampling_noise=0.0,
            tile=48, overlap=16, sampling_memory=memory,
        )  # fmt: skip
        decoder, upper = fresh(settings), LowResolution()
        decoder.network.stages[0] = Oracle(images, settings.stages[0], "x0")
        decoder.network.stages[1] = upper
        decoded.append(decoder.decode(z[:2], num_steps=2))
        assert upper.sides == {side}
    torch.testing.assert_close(decoded[0], decoded[1], atol=1e-5, rtol=0)
    expected = nn.functional.interpolate((images + 1) / 2, size=(128, 128), mode="bilinear")
    torch.testing.assert_close(decoded[0], expected, atol=2e-3, rtol=0)


def test_a_whole_image_is_normalised_as_one(z: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """GroupNorm reads what it is given: in tiles it makes another image, and a warning says so."""
    stages = large_stages(16, 64)
    decoders = {
        memory: fresh(
            altered(image_size=64, stages=stages, tile=32, overlap=8, sampling_memory=memory)
        )
        for memory in (1e-6, 10.0, None)
    }
    assert image_memory(stages[1]) < 10 * GB
    decoded = {memory: decoder.decode(z[:2], num_steps=1) for memory, decoder in decoders.items()}
    assert "in tiles of 32" in caplog.text
    assert caplog.text.count("GB") == 1
    assert torch.equal(decoded[None], decoded[10.0])
    shared = fresh(altered(image_size=64, stages=stages, tile=64)).decode(z[:2], num_steps=1)
    assert torch.equal(decoded[None], shared)  # a tile as large as the image
    assert (decoded[1e-6] - shared).square().mean().sqrt() > 0.01


def test_memory_is_asked_of_the_device(z: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = fresh(altered(image_size=64, stages=large_stages(16, 64), tile=32))
    free, upper = [1e12, 1.0], LowResolution()
    monkeypatch.setattr("corgi_core.decoders.cascade.decoder.free_memory", lambda _: free.pop(0))
    decoder.network.stages[1] = upper
    decoder.sample_stage(1, torch.zeros(1, 3, 16, 16), z[:1], None, OPTIONS)
    assert upper.sides == {64}
    decoder.sample_stage(1, torch.zeros(1, 3, 16, 16), z[:1], None, OPTIONS)
    assert upper.sides == {64, 32}


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="Linux alone says how much memory is used")
def test_the_memory_of_an_image_is_estimated_from_its_stage() -> None:
    """The process's own peak is the oracle."""
    stage = StageSettings(
        size=256, channels=(32, 64), layers=1, attention_levels=0, noise_shift=0.0
    )
    network = Stage(stage, WIDTH, 8, 32, None, upsamples=True).eval()
    inputs = (torch.randn(1, 6, 256, 256), torch.zeros(1).long(), torch.zeros(1))
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text("5")  # from now on VmHWM is the peak
    before = in_status("VmRSS")
    with torch.inference_mode():
        network(*inputs, torch.randn(1, WIDTH), torch.ones(1, dtype=torch.bool))
    used = in_status("VmHWM") - before
    assert 0.4 * image_memory(stage) < used < 1.2 * image_memory(stage), used


def in_status(name: str) -> int:
    """Bytes of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def test_held_out_images_are_evaluated_in_batches(
    cascade_task: CascadeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as memory is planned for at once; the metrics are those of all at once."""
    torch.manual_seed(0)
    task = replace(cascade_task, stage=1)
    model, sizes = task.build().eval(), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        at_once = task.evaluate(model)
        monkeypatch.setattr("corgi_core.decoders.cascade.task.BATCH_PIXELS", 5 * SIDE**2)
        in_batches = task.evaluate(model)
    passes = 1 + TINY_CASCADE.num_steps  # of the loss, and of the samples
    assert sizes == [n for n in (SHAPES, 5, 5, 5, 1) for _ in range(passes)]
    assert in_batches == pytest.approx(at_once, rel=1e-4)


def test_a_cascade_of_128_pixels_is_trained_and_sampled(
    cascade_task: CascadeTask, z: Tensor, tmp_path: Path
) -> None:
    images = Dataset.load(cascade_task.pixels.folder.parent / "images")
    training = replace(TINY_CASCADE.training, steps=2, batch_size=4, evaluate_every=10)
    settings = altered(
        image_size=128, stages=large_stages(16, 128), tile=64, overlap=16, training=training
    )
    large = replace(
        cascade_task, settings=settings, pixels=pixels(images, tmp_path / "pixels", 128),
        validation_keys=ListedKeys(()),
    )  # fmt: skip
    decoder = trained_cascade(large, tmp_path / "run")
    for metrics in decoder.card["metrics"].values():
        assert np.isfinite(list(metrics.values())).all()
    found = decoder.decode(z[:2], num_steps=2)
    assert found.shape == (2, 3, 128, 128)
    assert found.isfinite().all()
    torch.testing.assert_close(decoder.decode(z[:1], num_steps=2), found[:1], atol=1e-3, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.01


@pytest.fixture(scope="module")
def texts(cascade_task: CascadeTask, tmp_path_factory: pytest.TempPathFactory) -> ArrayStore:
    """Two captions of every picture but the last, of four tokens of width 5."""
    folder = tmp_path_factory.mktemp("texts")
    images = Dataset.load(cascade_task.pixels.folder.parent / "images")
    random = np.random.default_rng(0)

    def compute(shard: str) -> Arrays:
        keys = np.repeat(np.array(keys_of(cascade_task)[:-1]), 2)
        values = random.standard_normal((len(keys) * 4, 5)).astype(np.float16)
        return {"keys": keys, "tokens": RaggedArray.of_lengths(values, np.full(len(keys), 4))}

    spec = {"text_width": 5, "text_encoder": "made up"}
    return compute_missing(folder, images, spec, compute, "texts")


def chosen_pictures(task: CascadeTask) -> list[int]:
    """The numbers of the pictures that the first sixteen training rows are."""
    found = task.pictures(task.training, torch.arange(SHAPES)).z.float()
    numbers: list[int] = torch.cdist(found, task.spaced_embeddings).argmin(dim=1).tolist()
    return numbers


def test_a_cascade_reads_captions_beside_the_embedding(
    cascade_task: CascadeTask, texts: ArrayStore, z: Tensor
) -> None:
    settings = altered(text_width=5, text_dropout=0.0, cond_dropout=0.0)
    reading = replace(cascade_task, settings=settings, texts=texts)
    torch.manual_seed(0)
    network, conditions = reading.build(), []
    network.register_forward_pre_hook(lambda _, inputs: conditions.append(inputs[-1]))
    keys = keys_of(cascade_task)
    chosen = chosen_pictures(reading)
    loss_of(reading, network, torch.arange(SHAPES), StepRandom(0, 0, SHAPES))["loss"].backward()
    assert all(p.grad is not None for p in network.parameters())
    for row, picture in enumerate(chosen):
        if keys[picture] == keys[-1]:
            assert not conditions[0].attn_mask[row].any()
        else:
            own, _ = padded(texts.read_ragged("tokens").take(texts.rows_of([keys[picture]])))
            assert any(torch.equal(conditions[0].tokens[row], each) for each in own)
    second = replace(reading, stage=1).build()
    decoder = reading.assembled([network.eval(), second.eval()], {})
    assert decoder.reads_text
    assert decoder.encoders["text_encoder"] == "made up"
    words = TextCond(torch.randn(2, 4, 5), torch.ones(2, 4, dtype=torch.bool))
    assert (decoder.decode(z[:2], words) - decoder.decode(z[:2])).abs().max() > 1e-4


def test_every_caption_of_an_image_is_sampled(cascade_task: CascadeTask, texts: ArrayStore) -> None:
    """One a step, by (seed, step, sample): the same again, and on two workers."""
    settings = altered(text_width=5, text_dropout=0.0, cond_dropout=0.0)
    reading = replace(cascade_task, settings=settings, texts=texts)
    reading = replace(reading, settings=replace(settings, balanced=False))
    images = torch.arange(SHAPES)
    own = padded(texts.read_ragged("tokens"))[0][:-2].view(SHAPES - 2, 2, 4, 5)

    def sampled(step: int, rank: int = 0, world: int = 1) -> Tensor:
        random, part = StepRandom(0, step, SHAPES, rank, world), images.chunk(world)[rank]
        found = reading.batch(part, random).text
        assert found is not None
        return unpacked(found)[0]

    steps = torch.stack([sampled(step) for step in range(200)])
    second = (steps[:, : SHAPES - 2] == own[:, 1]).all(dim=(2, 3))
    assert ((steps[:, : SHAPES - 2] == own[:, 0]).all(dim=(2, 3)) | second).all()
    assert ((second.float().mean(dim=0) - 0.5).abs() < 0.2).all()  # six standard errors
    assert torch.equal(sampled(3), steps[3])
    assert torch.equal(torch.cat([sampled(3, rank, 2) for rank in (0, 1)]), steps[3])


def test_captions_outside_the_subset_are_not_read(
    cascade_task: CascadeTask, texts: ArrayStore
) -> None:
    settings, keys = altered(text_width=5, text_dropout=0.0), keys_of(cascade_task)
    settings = replace(settings, cond_dropout=0.0)
    reading = replace(
        cascade_task, settings=settings, texts=texts, captioned=ListedKeys(tuple(keys[:3]))
    )
    network, conditions = reading.build(), []
    network.register_forward_pre_hook(lambda _, inputs: conditions.append(inputs[-1]))
    loss_of(reading, network, torch.arange(SHAPES), StepRandom(0, 0, SHAPES))
    chosen = chosen_pictures(reading)
    there = [keys[picture] in keys[:3] for picture in chosen]
    assert conditions[0].attn_mask.any(dim=1).tolist() == there
    assert 0 < sum(there) < SHAPES


def test_dropped_captions_have_no_token(cascade_task: CascadeTask, texts: ArrayStore) -> None:
    for hiding in ({"text_dropout": 1.0}, {"text_dropout": 0.0, "cond_dropout": 1.0}):
        settings = altered(text_width=5, **hiding)
        reading = replace(cascade_task, settings=settings, texts=texts)
        network, conditions = reading.build(), []
        network.register_forward_pre_hook(
            lambda _, inputs, conditions=conditions: conditions.append(inputs[-1])
        )
        loss_of(reading, network, torch.arange(SHAPES), StepRandom(0, 0, SHAPES))
        assert not conditions[0].attn_mask.any()


def test_captions_and_their_width_go_together(
    cascade_task: CascadeTask, texts: ArrayStore, cascade: CascadeDecoder, z: Tensor
) -> None:
    for settings, store in ((altered(text_width=5), None), (TINY_CASCADE, texts)):
        with pytest.raises(CorgiError, match="tokens have width"):
            replace(cascade_task, settings=settings, texts=store)
    words = TextCond(torch.randn(1, 4, 5), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(CorgiError, match="reads no text"):
        cascade.decode(z[:1], words)
