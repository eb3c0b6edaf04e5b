"""A fine-tuned pipeline generates what its embeddings mean, and as diffusers' own loop does."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor

from corgi_core.decoders.decoder import signed
from corgi_core.decoders.registry import load_decoder
from corgi_core.decoders.stable_diffusion.decoder import StableDiffusionDecoder
from corgi_core.decoders.stable_diffusion.latents import Latents
from corgi_core.decoders.stable_diffusion.network import VECTORS
from corgi_core.decoders.stable_diffusion.task import StableDiffusionTask
from corgi_core.diffusion.samplers import timesteps_of
from corgi_core.diffusion.schedule import Schedule
from corgi_core.errors import CorgiError
from corgi_core.training.checkpoint import load_checkpoint
from corgi_core.training.identity import identity_of
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from tests.helpers.losses import loss_of
from tests.helpers.pipelines import SETTINGS, a_diffusion_task
from tests.helpers.shapes import KNOWN, SIDE, WIDTH, pictures_of
from tests.helpers.stopping import StoppedError, stopping

pytestmark = pytest.mark.integration  # trains, or starts processes, for seconds

MODES = ("full", "lora", "projection")


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionTask:
    return a_diffusion_task(tmp_path_factory.mktemp("stable_diffusion"))


@pytest.fixture(scope="session")
def decoder(
    task: StableDiffusionTask, tmp_path_factory: pytest.TempPathFactory
) -> StableDiffusionDecoder:
    result = train(task, task.settings.training, tmp_path_factory.mktemp("run"))
    return task.decoder(result.model, {"metrics": result.metrics})


@pytest.fixture(scope="session")
def z(task: StableDiffusionTask) -> Tensor:
    return task.spaced_embeddings


def with_settings(task: StableDiffusionTask, **changes: object) -> StableDiffusionTask:
    return replace(task, settings=replace(task.settings, **changes))


def test_every_picture_is_nearest_to_its_own_original(
    decoder: StableDiffusionDecoder, task: StableDiffusionTask, z: Tensor
) -> None:
    real = pictures_of(task).flatten(1) / 255
    decoded = decoder.decode(z, guidance=2.0).flatten(1)
    assert torch.equal(torch.cdist(decoded, real).argmin(dim=1), torch.arange(KNOWN))
    error = (decoded - real).square().mean().sqrt()
    assert error < 0.15, error  # the shapes themselves are this far apart: > 0.3 on average
    others = torch.cdist(decoder.decode(z.roll(1, dims=0), guidance=2.0).flatten(1), real)
    assert not (others.argmin(dim=1) == torch.arange(KNOWN)).any()


def test_the_embedding_becomes_four_vectors_of_the_text_tokens_width(
    decoder: StableDiffusionDecoder, z: Tensor
) -> None:
    conditioning, cond_mask = decoder.network.conditioning, torch.ones(KNOWN, dtype=torch.bool)
    vectors = conditioning(z, cond_mask)
    assert vectors.shape == (KNOWN, VECTORS, 24) == (KNOWN, 4, 24)
    uncond = conditioning(conditioning.negative.expand_as(z), cond_mask)
    torch.testing.assert_close(conditioning(z, ~cond_mask), uncond)
    torch.testing.assert_close(conditioning(z + 9, ~cond_mask), uncond)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_learns_what_it_says_and_nothing_else(
    task: StableDiffusionTask, mode: str, tmp_path: Path
) -> None:
    """Before and after six steps, parameter by parameter."""
    torch.manual_seed(0)
    before = with_settings(task, fine_tuning=mode).build().state_dict()
    training = replace(task.settings.training, steps=6, warmup_steps=1)
    after = train(with_settings(task, fine_tuning=mode), training, tmp_path).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    negative = {"conditioning.negative"}
    projection = {name for name in before if name.startswith("conditioning.")} - negative
    unet = {name for name in before if name.startswith("unet.")}
    adapters = {name for name in unet if "lora_" in name}
    assert bool(adapters) == (mode == "lora")
    learned = {"full": unet, "lora": adapters, "projection": set()}[mode]
    assert changed == projection | learned | negative


def test_a_fresh_adapter_changes_nothing(task: StableDiffusionTask, z: Tensor) -> None:
    torch.manual_seed(0)
    adapted, plain = (
        with_settings(task, fine_tuning=mode).build().eval() for mode in ("lora", "full")
    )
    adapted.conditioning.load_state_dict(plain.conditioning.state_dict())
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), z[:2], torch.tensor([True, True])
    torch.testing.assert_close(adapted(*inputs), plain(*inputs))


def test_recomputed_activations_give_the_same_gradient(task: StableDiffusionTask) -> None:
    gradients = []
    for recomputing in (False, True):
        torch.manual_seed(0)
        some = with_settings(task, checkpoint_activations=recomputing)
        model = some.build().train()
        assert model.unet.is_gradient_checkpointing == recomputing
        loss_of(some, model, torch.arange(4), StepRandom(0, 0, 4))["loss"].backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_latents_are_the_vaes_posterior(task: StableDiffusionTask) -> None:
    """Against diffusers' own distribution of each picture by itself."""
    vae = AutoencoderKL.from_pretrained(f"{task.settings.pretrained}/vae")
    latents = Latents(task.settings.pretrained)
    images, samples = torch.tensor([7, 0, 5]), []
    for step in range(400):
        samples.append(latents.sample(pictures_of(task)[images], StepRandom(0, step, 3)))
    for row, image in enumerate(images.tolist()):
        with torch.no_grad():
            found = vae.encode(signed(pictures_of(task)[image : image + 1])).latent_dist
        sampled, scale = torch.stack([each[row] for each in samples]), vae.config.scaling_factor
        error = (sampled.mean(dim=0) - scale * found.mean[0]) / (scale * found.std[0])
        assert error.square().mean().sqrt() == pytest.approx(1 / 20, rel=0.2)  # 1 / √400
        assert (sampled.std(dim=0) / (scale * found.std[0])).mean() == pytest.approx(1, abs=0.02)


def test_guidance_extrapolates_from_the_negative(
    decoder: StableDiffusionDecoder, z: Tensor
) -> None:
    x, t = torch.randn(2, 4, 8, 8), 500
    with torch.no_grad():
        given = decoder.predict(x, t, z[:2], 1.0)
        negative = decoder.predict(x, t, decoder.network.conditioning.negative.expand(2, -1), 1.0)
        found = [decoder.predict(x, t, z[:2], weight) for weight in (0.0, 1.000001, 2.0)]
    for prediction, expected in zip(found, (negative, given, 2 * given - negative), strict=True):
        torch.testing.assert_close(prediction, expected, atol=1e-4, rtol=1e-4)
    assert (given - negative).abs().max() > 0.01


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pictures_are_those_of_diffusers_own_pipeline(
    decoder: StableDiffusionDecoder, z: Tensor, guidance: float, prediction: str
) -> None:
    """Its loop, fed with our four vectors as prompts and our noise as latents."""
    network = decoder.network
    scheduler = network.shape.scheduler | {"prediction_type": prediction}
    shape = replace(network.shape, scheduler=scheduler)
    ours = decoder.build(vars(shape)).eval()
    ours.load_state_dict(network.state_dict())
    mine = StableDiffusionDecoder(ours, decoder.settings, decoder.encoders, {})
    decoded = mine.decode(z[:3], guidance=guidance, seed=4, num_steps=5)
    pipeline = StableDiffusionPipeline(
        vae=ours.vae, text_encoder=None, tokenizer=None, unet=ours.unet,
        scheduler=DPMSolverMultistepScheduler.from_config(
            scheduler, timestep_spacing="trailing"
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(4_000_012 + i))
             for i in range(3)]  # fmt: skip
    cond_mask = torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        theirs = pipeline(
            prompt_embeds=ours.conditioning(z[:3], cond_mask),
            negative_prompt_embeds=ours.conditioning(z[:3], ~cond_mask),
            latents=torch.stack(noise), guidance_scale=guidance, num_inference_steps=5,
            height=SIDE, width=SIDE, output_type="pt",
        ).images  # fmt: skip
    torch.testing.assert_close(decoded, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 7, 999, 1000])
def test_any_number_of_steps_begins_at_pure_noise(
    decoder: StableDiffusionDecoder, steps: int
) -> None:
    schedule = Schedule.of_pipeline(decoder.network.shape.scheduler)
    timesteps = timesteps_of("dpm++", steps, schedule)
    assert len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 999
    assert decoder.max_steps == 1000


def test_a_picture_depends_on_seed_and_number_only(
    decoder: StableDiffusionDecoder, z: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = decoder.decode(z, seed=5, guidance=2.0)
    torch.testing.assert_close(decoder.decode(z[:3], seed=5, guidance=2.0), many[:3])
    monkeypatch.setattr("corgi_core.decoders.decoder.BATCH_PIXELS", 5 * SIDE * SIDE)
    torch.testing.assert_close(decoder.decode(z, seed=5, guidance=2.0), many, atol=1e-4, rtol=0)
    assert (decoder.decode(z[:3], seed=6, guidance=2.0) - many[:3]).abs().max() > 1e-2


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_save_and_load_give_the_same_pictures(
    task: StableDiffusionTask, z: Tensor, mode: str, tmp_path: Path
) -> None:
    some = with_settings(task, fine_tuning=mode)
    network = some.build().eval()
    some.prepare(network)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # one that starts at zero proves nothing
    decoder = some.decoder(network, {"metrics": {}})
    decoder.save(tmp_path / "decoder")
    moved = (tmp_path / "decoder").rename(tmp_path / "elsewhere")
    loaded = load_decoder(moved)
    assert {path.name for path in moved.iterdir()} == {
        "config.json", "model.safetensors", "card.json", ".written-by-corgi",
    }  # fmt: skip
    assert loaded.settings == decoder.settings
    assert loaded.digest == decoder.digest
    assert torch.equal(loaded.decode(z[:2], guidance=2.0), decoder.decode(z[:2], guidance=2.0))


def test_two_workers_denoise_what_one_does(task: StableDiffusionTask) -> None:
    some = with_settings(task, perturbed=0.5, cond_dropout=0.5)
    model, rows = some.build().eval(), torch.arange(KNOWN)
    some.prepare(model)
    with torch.no_grad():
        whole = loss_of(some, model, rows, StepRandom(0, 7, KNOWN))
        halves = [
            loss_of(some, model, rows.chunk(2)[rank], StepRandom(0, 7, KNOWN, rank, 2))
            for rank in (0, 1)
        ]
    torch.testing.assert_close(whole["loss"], (halves[0]["loss"] + halves[1]["loss"]) / 2)


def test_a_resumed_decoder_is_the_uninterrupted_one(
    task: StableDiffusionTask, tmp_path: Path
) -> None:
    """With frozen weights, which a checkpoint holds once."""
    training = replace(task.settings.training, steps=12, warmup_steps=2, checkpoint_every=4)
    lora = with_settings(task, fine_tuning="lora", training=training)
    stopped = stopping(StableDiffusionTask, at=7)(
        lora.settings, lora.pixels, lora.embeddings, lora.train_keys, lora.validation_keys
    )
    with pytest.raises(StoppedError):
        train(stopped, training, tmp_path / "stopped")
    parts = load_checkpoint(tmp_path / "stopped").parts
    absent = parts["model"].keys() - parts["ema"].keys()
    assert any("base_layer" in name for name in absent)
    assert not any("lora_" in name or "conditioning" in name for name in absent)
    resumed = train(lora, training, tmp_path / "stopped").model
    straight = train(lora, training, tmp_path / "straight").model
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_task_travels_to_a_worker_as_the_same_training(task: StableDiffusionTask) -> None:
    sent = pickle.dumps(task)
    there = pickle.loads(sent)
    assert len(sent) < 10_000
    settings = SETTINGS.training
    assert identity_of(there, settings) == identity_of(task, settings)
    assert there.rows == task.rows


@pytest.mark.parametrize("shape", [(2, WIDTH + 1), (WIDTH,)])
def test_embeddings_of_another_shape_are_refused(
    decoder: StableDiffusionDecoder, shape: tuple[int, ...]
) -> None:
    with pytest.raises(CorgiError, match=f"needs \\[n, {WIDTH}\\]"):
        decoder.decode(torch.zeros(shape))
    with pytest.raises(CorgiError, match=f"needs \\[{WIDTH}\\]"):
        decoder.with_negative(torch.zeros(WIDTH + 1))
