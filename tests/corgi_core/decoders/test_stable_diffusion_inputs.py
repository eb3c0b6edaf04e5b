"""Where weights and the negative embedding come from, and what is refused on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corgi_core.decoders.pca.task import PCATask
from corgi_core.decoders.registry import decoder_class, decoder_task
from corgi_core.decoders.stable_diffusion.decoder import StableDiffusionDecoder
from corgi_core.decoders.stable_diffusion.network import StableDiffusionShape
from corgi_core.decoders.stable_diffusion.pipeline import load_unet, load_vae, read_configs
from corgi_core.decoders.stable_diffusion.task import StableDiffusionTask
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.errors import CorgiError
from tests.helpers.pipelines import SETTINGS
from tests.helpers.shapes import SIDE, WIDTH, a_task
from tests.helpers.tiny_diffusion import save_pipeline, tiny_scheduler, tiny_unet, tiny_vae
from tests.helpers.tiny_vit import tiny_vit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pipeline")
    return save_pipeline(path, tiny_vae(), tiny_unet(), tiny_scheduler())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> PCATask:
    return a_task(tmp_path_factory.mktemp("shapes"))


def a_training(
    shapes: PCATask, folder: Path | str, clip: ClipEnsemble | None = None, **changes: object
) -> StableDiffusionTask:
    settings = replace(SETTINGS, **{"pretrained": str(folder)} | changes)
    task = decoder_task(
        settings, clip, pixels=shapes.pixels,
        embeddings=shapes.embeddings, train_keys=shapes.train_keys,
        validation_keys=shapes.validation_keys,
    )  # fmt: skip
    assert isinstance(task, StableDiffusionTask)
    return task


def test_the_kind_is_known_by_its_name() -> None:
    assert decoder_class("stable_diffusion") is StableDiffusionDecoder


def test_weights_are_those_of_the_folder(shapes: PCATask, folder: Path) -> None:
    torch.manual_seed(5)  # other weights, if they were not read
    model = a_training(shapes, folder).build().state_dict()
    for part, saved in (("unet", load_unet(str(folder))), ("vae", load_vae(str(folder)))):
        for name, tensor in saved.state_dict().items():
            assert torch.equal(model[f"{part}.{name}"], tensor), name
    torch.manual_seed(0)
    assert torch.equal(model["vae.encoder.conv_in.weight"], tiny_vae().encoder.conv_in.weight)


def test_the_negative_is_the_mean_or_a_black_images(shapes: PCATask, folder: Path) -> None:
    clip = ClipEnsemble([tiny_vit("vit", WIDTH, layers=1, context_length=16)])
    black = clip.encode_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[0]
    mean = shapes.spaced_embeddings.mean(dim=0)
    for negative, expected in (("mean", mean), ("prior", mean), ("zero", black)):
        task = a_training(shapes, folder, clip, negative=negative)
        assert task.clip is None  # it does not travel to workers
        model = task.build()
        task.prepare(model)
        torch.testing.assert_close(model.conditioning.negative, expected)
        assert task.decoder(model, {}).needs_negative == (negative == "prior")


def test_a_black_image_needs_clip(shapes: PCATask, folder: Path) -> None:
    with pytest.raises(CorgiError, match="no CLIP to embed a black image"):
        a_training(shapes, folder, negative="zero")


def test_a_negative_that_is_given_guides(shapes: PCATask, folder: Path) -> None:
    task = a_training(shapes, folder, negative="prior")
    model = task.build().eval()
    task.prepare(model)
    own, z = task.decoder(model, {}), task.spaced_embeddings[:2]
    digest, plain = own.digest, own.decode(z, guidance=2.0, num_steps=2)
    given = own.with_negative(task.spaced_embeddings[5])
    assert not torch.equal(given.decode(z, guidance=2.0, num_steps=2), plain)
    torch.testing.assert_close(given.decode(z, num_steps=2), own.decode(z, num_steps=2))
    assert torch.equal(own.decode(z, guidance=2.0, num_steps=2), plain)
    assert given.digest == own.digest == digest  # it is no weight
    model.conditioning.negative.copy_(task.spaced_embeddings[5])
    torch.testing.assert_close(
        own.decode(z, guidance=2.0, num_steps=2), given.decode(z, guidance=2.0, num_steps=2)
    )


def test_large_pictures_are_decoded_tile_by_tile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = read_configs(str(folder))
    shape = StableDiffusionShape(WIDTH, configs.unet, configs.vae, configs.scheduler)
    network = StableDiffusionDecoder.build(vars(shape)).eval()
    latents = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        whole = network.decode_latents(latents)
        monkeypatch.setattr("corgi_core.decoders.stable_diffusion.network.MAX_UNTILED", 31)
        tiled = network.decode_latents(latents)
    assert whole.shape == tiled.shape == (1, 3, 32, 32)
    assert not torch.equal(whole, tiled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tuning": "some"}, r"(?s)fine_tuning.*'full', 'lora' or 'projection'"),
        ({"negative": "nothing"}, r"(?s)negative.*'mean', 'zero' or 'prior'"),
        ({"fine_tuning": "lora", "lora_rank": 0}, "lora_rank"),
        ({"pretrained": "/no/such/folder"}, "there is no folder /no/such/folder.*hub id"),
        ({"pretrained": "nobody/such-a-pipeline"}, "nobody/such-a-pipeline cannot be loaded"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    shapes: PCATask, folder: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):  # CorgiError, or the schema's
        a_training(shapes, folder, **changes)


def test_a_size_that_cannot_be_halved_often_enough_is_refused(
    shapes: PCATask, tmp_path: Path
) -> None:
    unet = tiny_unet(
        block_out_channels=(8,) * 5, up_block_types=("UpBlock2D",) * 5,
        down_block_types=("DownBlock2D",) * 5,
    )  # fmt: skip
    folder = save_pipeline(tmp_path, tiny_vae(), unet, tiny_scheduler())
    assert SIDE % 32
    with pytest.raises(CorgiError, match=r"no images of 16 pixels.*multiple of 32"):
        a_training(shapes, folder)


def test_pickled_weights_are_refused(shapes: PCATask, tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path, tiny_vae(), tiny_unet(), tiny_scheduler(), safe=False)
    assert (folder / "unet" / "diffusion_pytorch_model.bin").exists()
    for load in (load_unet, load_vae):
        with pytest.raises(CorgiError, match="safetensors"):
            load(str(folder))
    with pytest.raises(CorgiError, match="cannot be loaded"):
        a_training(shapes, folder).build()


@pytest.mark.parametrize(
    ("unet", "prediction", "message"),
    [
        ({"in_channels": 9}, "epsilon", "turns 9 channels into 4.*inpainting"),
        ({}, "sample", "prediction_type 'sample'"),
    ],
)
def test_other_pipelines_are_refused(
    tmp_path: Path, unet: dict[str, object], prediction: str, message: str
) -> None:
    folder = save_pipeline(tmp_path, tiny_vae(), tiny_unet(**unet), tiny_scheduler(prediction))
    with pytest.raises(CorgiError, match=message):
        read_configs(str(folder))


def test_a_folder_without_a_part_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(CorgiError, match=r"the unet of .* cannot be loaded.*unet/"):
        read_configs(str(tmp_path))
