"""Everything computes on the device of its models, and gives there what it gives on the CPU.

There is no GPU here: `tests.helpers.fake_gpu` refuses what one would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corgi_core.config import ComparisonSettings, EvaluationSettings, GaussianSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.pixels import pixels
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.decoder import Decoder, TextCond
from corgi_core.decoders.gan.decoder import GanDecoder
from corgi_core.decoders.gan.generator import GanShape
from corgi_core.decoders.gan.generator import Generator as GanGenerator
from corgi_core.decoders.pca.decoder import PCADecoder
from corgi_core.decoders.pca.network import PCANetwork, PCAShape
from corgi_core.decoders.stable_diffusion.decoder import StableDiffusionDecoder
from corgi_core.decoders.stable_diffusion.network import (
    StableDiffusionNetwork,
    StableDiffusionShape,
)
from corgi_core.devices import (
    BEST,
    CPU,
    Device,
    _products,
    device_of,
    inference,
    tower_dtype,
)
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.clip_text import ClipTextTower
from corgi_core.encoders.embed import (
    ImageEmbedding,
    TextEmbedding,
    embed_images,
    embed_texts,
)
from corgi_core.encoders.fitted_text_tower import FittedTextTower, projection
from corgi_core.encoders.open_clip_model import OpenClipModel
from corgi_core.encoders.tokens import transformers_source
from corgi_core.encoders.train_clip import architecture, untrained_clip
from corgi_core.errors import CorgiError
from corgi_core.evaluation.evaluate import evaluate
from corgi_core.evaluation.material import Material, RunJob, TrainingData
from corgi_core.evaluation.stored_models import StoredDecoder, StoredPrior
from corgi_core.experiments.decoder_comparison.measure import Comparison, measure
from corgi_core.experiments.prior_ablation.measure import measure_arm
from corgi_core.experiments.prior_ablation.sweeps import plans_of, sweeps_of
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.learned import BankTask
from corgi_core.metrics.inception import InceptionFeatures
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.model import PriorModel
from corgi_core.training.randomness import StepRandom
from tests.helpers.cascades import a_cascade_task, altered
from tests.helpers.fake_gpu import MixedDevicesError, OnGpu, fake_gpu, its_generators
from tests.helpers.gan_shapes import TINY as GAN
from tests.helpers.losses import loss_of
from tests.helpers.pipelines import SETTINGS as STABLE
from tests.helpers.shapes import SIDE, WIDTH, a_task
from tests.helpers.shapes import TINY as PCA
from tests.helpers.small_study import PRESET as PRESET_OF_STUDY
from tests.helpers.small_study import small_study
from tests.helpers.tiny_diffusion import tiny_scheduler, tiny_unet, tiny_vae
from tests.helpers.tiny_pipeline import BLOCKS, PRESET, tiny_pipeline, write_images
from tests.helpers.tiny_prior import made_prior

CAPTIONS = ["a red apple", "seven engines under water", "no"]
GPU = Device("meta")
ENCODERS = {"encoder_dims": [WIDTH], "width": WIDTH}


@pytest.fixture(scope="module")
def parts() -> CorgiPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_images(tmp_path_factory.mktemp("data") / "images", 40, validated=True)


@pytest.fixture(scope="module")
def squares(images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ArrayStore:
    return pixels(images, tmp_path_factory.mktemp("pixels"), SIDE)


@pytest.fixture(scope="module")
def stores(
    parts: CorgiPipeline, images: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ArrayStore, ArrayStore]:
    """Image and text embeddings, computed on the CPU."""
    folder = tmp_path_factory.mktemp("stores")
    return (
        embed_images(parts.clip, images, None, folder / "image"),
        embed_texts(parts.clip, parts.tokens, images, folder / "text"),
    )


@contextmanager
def computing_on(device: torch.device, *models: Any) -> Iterator[None]:
    """Inside, the models are on a device; afterwards where they were."""
    before = [model.device for model in models]
    for model in models:
        model.to(device)
    yield
    for model, its_own in zip(models, before, strict=True):
        model.to(its_own)


def same_on_gpu(compute: Callable[[], Tensor], *models: Any) -> None:
    """The result is that of the CPU, on the GPU."""
    expected = compute()
    with fake_gpu() as gpu, computing_on(gpu, *models):
        found = compute()
        assert found.device == gpu
        assert isinstance(found, OnGpu)
    torch.testing.assert_close(found.inside, expected, atol=1e-4, rtol=1e-4)
    assert all(model.device.type == "cpu" for model in models)


# The fake


@pytest.mark.parametrize(
    "mistake",
    [
        lambda gpu: gpu + torch.ones(3),
        lambda gpu: torch.ones(3, 3) @ gpu,
        lambda gpu: torch.cat([gpu, torch.ones(3)]),
        lambda gpu: torch.stack([gpu[0], torch.tensor(1.0)]),
        lambda gpu: torch.ones(3)[gpu.long()],
        lambda gpu: torch.where(gpu > 0, gpu, torch.ones(3)),
        lambda gpu: nn.functional.linear(gpu, torch.ones(3, 3)),
        lambda gpu: torch.ones(3).index_put_([torch.tensor([0])], gpu[:1]),
    ],
)
def test_the_fake_refuses_what_a_gpu_refuses(mistake: Callable[[Tensor], Tensor]) -> None:
    with fake_gpu() as gpu, pytest.raises(MixedDevicesError):
        mistake(torch.ones(3).to(gpu))


def test_numpy_takes_no_tensor_of_the_fake() -> None:
    with fake_gpu() as gpu, pytest.raises(TypeError, match="numpy takes no"):
        torch.ones(3).to(gpu).numpy()


@pytest.mark.parametrize(
    "allowed",
    [
        lambda gpu: 2 * gpu + torch.tensor(1.0),  # a single number may come from anywhere
        lambda gpu: gpu[torch.tensor([0, 2])],
        lambda gpu: gpu.new_ones(3) + torch.ones(3, device=gpu.device) + gpu.to(torch.float64),
        lambda gpu: torch.empty(3, device="meta").copy_(torch.ones(3)),
        lambda gpu: nn.Linear(3, 3).to("meta")(gpu),
        lambda gpu: nn.functional.affine_grid(gpu.expand(2, 2, 3), [2, 1, 4, 4], False),
    ],
)
def test_the_fake_allows_what_a_gpu_allows(allowed: Callable[[Tensor], Tensor]) -> None:
    with fake_gpu() as gpu:
        found = allowed(torch.ones(3).to(gpu))
        assert found.device == gpu
        assert found.cpu().device.type == found.to("cpu").device.type == "cpu"
        assert np.isfinite(found.detach().cpu().numpy()).all()
        assert found.flatten()[0].item() == found.flatten().tolist()[0]


# Models


def test_images_and_texts_are_encoded_on_the_device_of_clip(parts: CorgiPipeline) -> None:
    pictures = torch.rand(5, 3, 40, 40)
    same_on_gpu(lambda: parts.clip.encode_images(pictures), parts.clip)
    same_on_gpu(lambda: parts.clip.encode_images((pictures * 255).byte()), parts.clip)
    same_on_gpu(lambda: parts.clip.encode_texts(CAPTIONS), parts.clip)


def test_texts_are_encoded_on_the_device_of_the_text_towers(
    parts: CorgiPipeline, tmp_path: Path
) -> None:
    from open_clip.tokenizer import HFTokenizer  # after corgi_core, which mends torchvision

    settings = PRESET.encoders
    tokenizer = HFTokenizer(transformers_source(settings.text), context_length=12)
    model = untrained_clip(settings, pretrained_text=True)
    untrained = ClipEnsemble([OpenClipModel("a", model, architecture(settings), tokenizer)])
    untrained.save(tmp_path / "clip")
    towers = ClipTextTower.load(tmp_path / "clip")
    same_on_gpu(lambda: towers.encode_texts(CAPTIONS), towers)
    same_on_gpu(lambda: untrained.encode_texts(CAPTIONS), untrained)
    fitted = FittedTextTower("a", parts.tokens, projection(parts.tokens.width, 8), "space")
    ensemble = ClipEnsemble([fitted])
    same_on_gpu(lambda: ensemble.encode_texts(CAPTIONS), ensemble)


def test_tokens_come_back_to_the_cpu(parts: CorgiPipeline) -> None:
    expected = parts.tokens.encode(CAPTIONS)
    with fake_gpu() as gpu, computing_on(gpu, parts.tokens):
        found = parts.tokens.encode(CAPTIONS)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("choice", ["means", "expectation"])
def test_a_prior_samples_on_its_device(
    parts: CorgiPipeline, sampler: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corgi_core.prior.model.CAPTIONS_AT_ONCE", 2)
    d, random = sum(BLOCKS), torch.Generator().manual_seed(0)
    means = torch.randn(3, d, generator=random)
    bank = GaussianBank(means, means.abs() + 0.1, torch.ones(3), BLOCKS, 1.0, choice)
    shape = replace(parts.prior.network.shape, gaussians=3)
    network = type(parts.prior.network)(shape).eval()
    prior = PriorModel(network, bank, parts.prior.settings, parts.prior.encoders, {})
    tokens, mask = parts.tokens.encode(CAPTIONS)
    text = parts.clip.encode_texts(CAPTIONS)
    devices: list[torch.device] = []

    def sampled() -> Tensor:
        return prior.sample(
            tokens, mask, text, num_steps=3, guidance=2.0, sampler=sampler, seed=1,
            callback=lambda t, z_t, z: devices.append(z.device),
        )  # fmt: skip

    same_on_gpu(sampled, prior)
    assert {device.type for device in devices} == {"cpu", "meta"}


def small_decoders() -> Iterator[Decoder]:
    torch.manual_seed(0)
    settings = altered(text_width=5)
    cascade = CascadeNetwork(CascadeShape.of(settings, WIDTH)).eval()
    yield CascadeDecoder(cascade, settings, ENCODERS, {})
    gan = GanGenerator(GanShape(WIDTH, SIDE, latent_width=8, channel_base=64, max_channels=8))
    yield GanDecoder(gan.eval(), GAN, ENCODERS, {})
    sizes = {name: getattr(PCA, name) for name in ("components", "width", "vectors")}
    shape = PCAShape(WIDTH, SIDE, **sizes, vector_width=PCA.vector_width)
    yield PCADecoder(PCANetwork(shape).eval(), PCA, ENCODERS, {})
    unet, vae = tiny_unet().eval(), tiny_vae()
    configs = StableDiffusionShape(
        WIDTH, dict(unet.config), dict(vae.config), dict(tiny_scheduler().config)
    )
    network = StableDiffusionNetwork(configs, unet, vae).eval()
    stable = StableDiffusionDecoder(network, STABLE, ENCODERS, {})
    yield stable.with_negative(torch.randn(WIDTH))


@pytest.mark.parametrize("decoder", small_decoders(), ids=lambda decoder: decoder.kind)
def test_every_kind_of_decoder_decodes_on_its_device(decoder: Decoder) -> None:
    z = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    text = None
    if decoder.reads_text:
        text = TextCond(torch.randn(3, 4, 5), torch.ones(3, 4, dtype=torch.bool))
    options = {"num_steps": 1, "seed": 4, "size": 24}
    if decoder.settings.cond_dropout:
        options["guidance"] = 2.0
    same_on_gpu(lambda: decoder.decode(z, text, **options), decoder)


def test_a_cascade_decodes_in_tiles_on_its_device() -> None:
    decoder = next(small_decoders())
    tiled = replace(decoder.settings, tile=8, overlap=0, sampling_memory=1e-9)
    decoder = CascadeDecoder(decoder.network, tiled, ENCODERS, {})
    z = torch.randn(1, WIDTH)
    same_on_gpu(lambda: decoder.decode(z, num_steps=1), decoder)


def test_a_pipeline_generates_on_its_device(parts: CorgiPipeline) -> None:
    pictures = torch.rand(2, 3, 20, 24)

    def images() -> list[Tensor]:
        return [
            parts.text_to_image(CAPTIONS[:2], 2, seed=1, output_type="pt"),
            parts.variations(pictures[0], 2, output_type="pt"),
            parts.interpolate("a cat", pictures[1], 3, output_type="pt"),
            parts.edit(pictures[0], "a crown", num_images=2, output_type="pt"),
            parts.edit(pictures[0], before="a cat", after="a dog", output_type="pt"),
            parts.decode(parts.embed_image(pictures), output_type="pt"),
            parts.decode(torch.ones(1, sum(BLOCKS)), guidance=2.0, output_type="pt"),
        ]

    expected = images()
    with fake_gpu() as gpu:
        assert parts.to("meta").device == gpu
        found = [each.cpu() for each in images()]
        assert len(parts.text_to_image("a red apple")) == 1  # as PIL
        parts.to("cpu")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# Datasets, evaluations, studies


def test_a_dataset_is_embedded_on_the_device_that_is_named(
    parts: CorgiPipeline,
    images: Dataset,
    stores: tuple[ArrayStore, ArrayStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_this_thread = lambda function, items, _: map(function, items)  # noqa: E731
    monkeypatch.setattr("corgi_core.encoders.embed.in_order", in_this_thread)  # where the fake is
    parts.clip.save(tmp_path / "clip")
    jobs = (
        ImageEmbedding(images, None, tmp_path / "clip", precision="fp32"),
        TextEmbedding(
            images, tmp_path / "clip", "minilm", parts.tokens.max_tokens, precision="fp32"
        ),
    )
    for job, expected, name in zip(jobs, stores, ("image", "text"), strict=True):
        with fake_gpu():
            found = job.run(tmp_path / job.what, "meta", threads=2)
        assert found.spec == expected.spec
        np.testing.assert_allclose(found.read(name), expected.read(name), atol=2e-3)
    tokens, expected_tokens = (each.read_ragged("tokens") for each in (found, expected))
    np.testing.assert_array_equal(tokens.offsets, expected_tokens.offsets)
    np.testing.assert_allclose(tokens.values, expected_tokens.values, atol=2e-3)
    assert jobs[0]._ensemble.precision == "fp32"
    assert {encoder.precision for encoder in jobs[1]._encoders} == {"fp32"}


class Pooling(nn.Module):
    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        return images.float().flatten(1)[:, ::97]


@pytest.fixture(scope="module")
def saved(parts: CorgiPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "clip", "prior" and "decoder"."""
    folder = tmp_path_factory.mktemp("saved")
    parts.clip.save(folder / "clip")
    parts.prior.save(folder / "prior")
    parts.decoder.save(folder / "decoder")
    return folder


def on(device: str) -> RunJob:
    return lambda job, folder: job.run(folder, device, threads=1)


def test_an_evaluation_computes_on_the_device_that_is_named(
    images: Dataset,
    squares: ArrayStore,
    stores: tuple[ArrayStore, ArrayStore],
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("corgi_core.evaluation.set_scores.FEWEST_FOR_FID", 5)
    torch.jit.script(Pooling()).save(str(tmp_path / "inception.pt"))
    weights = str(tmp_path / "inception.pt")
    settings = EvaluationSettings(steps=(1, 2), images=8, grid_rows=2, inception_weights=weights)
    priors = {("baseline", "100%"): StoredPrior.load(saved / "prior")}
    decoder = StoredDecoder.load(saved / "decoder")

    def tables(device: str) -> list[Any]:
        material = material_on(device, images, stores, squares, saved, tmp_path)
        whole = evaluate(priors, decoder, material, settings)
        return [whole.prior_table(), whole.picture_table()]

    expected = tables("cpu")
    assert {"fid", "kid", "frechet_clip"} <= {*expected[1].columns}
    with fake_gpu():
        found = tables("meta")
    for ours, theirs in zip(found, expected, strict=True):
        numbers = [c for c in theirs.select_dtypes("number").columns if c != "seconds"]
        assert ours[numbers].to_numpy() == pytest.approx(
            theirs[numbers].to_numpy(), abs=1e-2, nan_ok=True
        )


def material_on(
    device: str,
    images: Dataset,
    stores: tuple[ArrayStore, ArrayStore],
    squares: ArrayStore,
    saved: Path,
    folder: Path,
) -> Material:
    """The same images for any device, whose results have a folder of their own."""
    return Material(
        images, *stores, folder / device, on(device), squares, saved / "clip", "fp32",
        other_training=TrainingData(images, *stores, squares),
    )  # fmt: skip


def test_inception_computes_on_its_device(tmp_path: Path) -> None:
    torch.jit.script(Pooling()).save(str(tmp_path / "inception.pt"))
    pictures = torch.rand(5, 3, 9, 9)
    expected = InceptionFeatures(str(tmp_path / "inception.pt"))(pictures)
    with fake_gpu() as gpu:
        features = InceptionFeatures(str(tmp_path / "inception.pt"), gpu)
        np.testing.assert_allclose(features(pictures), expected)
        np.testing.assert_allclose(features(pictures.to(gpu)), expected)


def test_decoders_are_compared_on_the_device_that_is_named(
    images: Dataset,
    squares: ArrayStore,
    stores: tuple[ArrayStore, ArrayStore],
    saved: Path,
    tmp_path: Path,
) -> None:
    comparison = Comparison(
        "supervision", {"pca": StoredDecoder.load(saved / "decoder")},
        {("baseline", "100%"): StoredPrior.load(saved / "prior")},
    )  # fmt: skip
    settings = ComparisonSettings(seeds=(0,), images=8, grid_rows=2)

    def rows(device: str) -> list[Any]:
        material = material_on(device, images, stores, squares, saved, tmp_path)
        material = replace(material, other_training=None)
        return measure(comparison, material, settings, EvaluationSettings(steps=(1,))).rows

    expected = rows("cpu")
    with fake_gpu():
        found = rows("meta")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-2) or ours[name] == theirs[name]


def test_an_arm_of_the_study_is_measured_on_its_device(tmp_path: Path) -> None:
    training = replace(PRESET_OF_STUDY.study.training, steps=2, evaluate_every=2)
    settings = replace(PRESET_OF_STUDY.study, training=training, steps=(3,), main_steps=(3,))
    study = small_study(tmp_path, replace(PRESET_OF_STUDY, study=settings))
    plan = plans_of(sweeps_of(study.preset), seed=0, max_steps=3)[0]
    expected = measure_arm(study, plan)["samples"]  # trained on the CPU
    for written in study.folder.glob("*.json"):
        written.unlink()
    with fake_gpu():
        found = measure_arm(replace(study, device=GPU), plan)["samples"]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["cosine"] == pytest.approx(theirs["cosine"], abs=1e-3)
        assert ours["frechet"] == pytest.approx(theirs["frechet"], abs=1e-3)


# Tasks


def test_held_out_metrics_of_tasks_are_the_same_on_every_device(tmp_path: Path) -> None:
    prior = made_prior(tmp_path / "prior")
    bank = BankTask(
        GaussianSettings(),
        prior.images,
        prior.texts,
        prior.captioned,
        prior.validation_keys,
        prior.bank,
    )
    tasks = [prior, bank, a_task(tmp_path / "pca"), a_cascade_task(tmp_path / "cascade")]
    for task in tasks:
        torch.manual_seed(0)
        model = task.build()
        task.prepare(model)
        model.eval()
        with torch.no_grad():
            expected = task.evaluate(model)
            with fake_gpu():
                found = task.evaluate(model.to("meta"))
        assert found == pytest.approx(expected, abs=1e-3), type(task)


def test_losses_of_tasks_are_computed_on_the_device_of_the_random_numbers(tmp_path: Path) -> None:
    for task in (
        made_prior(tmp_path / "prior"), a_task(tmp_path / "pca"), a_cascade_task(tmp_path / "c"),
    ):  # fmt: skip
        torch.manual_seed(0)
        model, rows = task.build(), torch.arange(8)
        task.prepare(model)
        expected = loss_of(task, model, rows, StepRandom(0, 0, 8))["loss"]
        with fake_gpu() as gpu, its_generators(), torch.no_grad():
            random = StepRandom(0, 0, 8, device=gpu)
            found = loss_of(task, model.to("meta"), rows, random)["loss"]
            assert found.device == gpu
        torch.testing.assert_close(found.inside, expected.detach(), atol=1e-4, rtol=1e-4)


# Devices and precisions


def test_the_best_device_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Device().here() == torch.device("cpu")
    assert CPU.here() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Device(BEST).here() == torch.device("cuda")
    assert CPU.here() == torch.device("cpu")
    with pytest.raises(CorgiError, match="cuda:7"):
        Device("cuda:7").here()


def test_a_module_without_tensors_is_on_the_cpu() -> None:
    assert device_of(nn.Identity()) == torch.device("cpu")
    assert device_of(nn.BatchNorm1d(2, affine=False).to("meta")).type == "meta"


@pytest.mark.parametrize("precision", ["auto", "bf16", "tf32", "fp32"])
def test_no_precision_changes_what_a_cpu_computes(parts: CorgiPipeline, precision: str) -> None:
    expected = parts.text_to_image(CAPTIONS[0], output_type="pt")
    found = parts.to("cpu", precision).text_to_image(CAPTIONS[0], output_type="pt")
    parts.to("cpu")
    assert torch.equal(found, expected)


def test_a_cpu_without_instructions_for_bfloat16_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        assert tower_dtype(torch.device("cpu"), "bf16") == torch.bfloat16
    assert tower_dtype(torch.device("cpu"), "auto") == torch.float32


@pytest.mark.parametrize(
    ("precision", "bf16", "half", "product"),
    [
        ("auto", True, True, "none"), ("auto", False, False, "none"), ("bf16", False, True, "none"),
        ("tf32", True, False, "tf32"), ("fp32", True, False, "ieee"),
    ],
)  # fmt: skip
def test_a_gpus_precision_is_that_asked_for_and_ends_with_the_block(
    precision: str, bf16: bool, half: bool, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Autocast:
        def __init__(self, kind: str, dtype: torch.dtype, enabled: bool) -> None:
            asked.append(enabled)

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    before = torch.backends.cuda.matmul.fp32_precision
    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    with inference(torch.device("cuda"), precision):
        inside = (
            torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
        )  # fmt: skip
    if product != "none":
        assert inside == (product, product)
    assert asked == [half]
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_threads_share_the_precision_of_products() -> None:
    of_products = torch.backends.cuda.matmul
    before = of_products.fp32_precision
    first, second = (_products.computed_in("tf32") for _ in range(2))
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert of_products.fp32_precision == "tf32"  # the other one is still inside
    second.__exit__(None, None, None)
    assert of_products.fp32_precision == before


def test_another_precision_is_refused(parts: CorgiPipeline) -> None:
    with pytest.raises(CorgiError, match="'half'"), inference(torch.device("cpu"), "half"):
        pass


def test_a_prior_in_bfloat16_samples_nearly_the_same(parts: CorgiPipeline) -> None:
    tokens, mask = parts.tokens.encode(CAPTIONS)
    text = parts.clip.encode_texts(CAPTIONS)
    exact = parts.prior.sample(tokens, mask, text, num_steps=4, guidance=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = parts.prior.sample(tokens, mask, text, num_steps=4, guidance=2.0)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1
