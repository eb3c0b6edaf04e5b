"""CorgiPipeline: real parts, tiny and untrained, that fit each other."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from corgi_core import CorgiPipeline
from corgi_core.data.normalise import picture_file
from corgi_core.data.pixels import square
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.decoder import TextCond
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.clip_text import ClipTextTower
from corgi_core.encoders.embed import embed_images
from corgi_core.encoders.similarity import cosine_by_encoder, mean_encoder_cosine
from corgi_core.encoders.spherical import interpolation, slerp, text_difference
from corgi_core.errors import CorgiError
from corgi_core.pipeline import (
    MAX_IMAGES,
    MAX_PIXELS,
    MAX_PROMPT_LENGTH,
    check_prompts,
)
from tests.helpers.tiny_pipeline import BLOCKS, PRESET, SIDE, TOKENS, png, register, write_images

PT = {"seed": 5, "output_type": "pt"}


@pytest.fixture(scope="module")
def image(pipeline):
    return pipeline.embed_image(png(1))[0]


@pytest.fixture(scope="module")
def other(pipeline):
    return pipeline.embed_image(png(2))[0]


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    pipeline.save_pretrained(folder)
    return folder


def pil(number: int) -> Image.Image:
    return Image.open(io.BytesIO(png(number)))


def pixels(number: int) -> torch.Tensor:
    """The image of `png(number)`, uint8 [3, h, w]."""
    return torch.from_numpy(square(png(number), 24).copy())[:, :, 2:-2]


# Captions


def test_a_caption_becomes_images_that_depend_on_caption_seed_and_number(pipeline):
    images = pipeline.text_to_image("a red apple", 3, **PT)
    assert images.shape == (3, 3, SIDE, SIDE)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, pipeline.text_to_image("a red apple", 3, **PT))
    for other in (images[1], pipeline.text_to_image("a red apple", seed=6, output_type="pt")[0],
                  pipeline.text_to_image("a green car", **PT)[0]):  # fmt: skip
        assert (images[0] - other).abs().max() > 1e-3


def test_a_batch_of_captions_gives_the_images_of_each_alone(pipeline):
    prompts = ["a red apple", "a car that is much longer to describe", "a red apple"]
    together = pipeline.text_to_image(prompts, 2, **PT)
    assert len(together) == 6
    for j, prompt in enumerate(prompts):
        alone = pipeline.text_to_image(prompt, 3, **PT)
        torch.testing.assert_close(together[2 * j : 2 * j + 2], alone[:2], atol=1e-4, rtol=0)
    z = pipeline.embed_text(prompts, 2, seed=5)
    torch.testing.assert_close(z[2:4], pipeline.embed_text(prompts[1], 2, seed=5))
    assert z.shape == (6, sum(BLOCKS))


def test_images_come_as_pil_or_as_tensors(pipeline, image):
    made = {
        "text_to_image": lambda **o: pipeline.text_to_image("a cat", 2, **o),
        "variations": lambda **o: pipeline.variations(image, 2, **o),
        "interpolate": lambda **o: pipeline.interpolate("a cat", image, 2, **o),
        "edit": lambda **o: pipeline.edit(image, "a cat", num_images=2, **o),
        "decode": lambda **o: pipeline.decode(image.expand(2, -1), **o),
    }
    for name, make in made.items():
        images, tensor = make(), make(output_type="pt")
        assert [each.size for each in images] == [(SIDE, SIDE)] * 2, name
        assert not tensor.requires_grad
        for each, values in zip(images, tensor, strict=True):
            expected = (values * 255).round().to(torch.uint8)
            found = torch.from_numpy(square(_png_of(each), SIDE).copy())
            assert torch.equal(found, expected), name
    with pytest.raises(CorgiError, match="output type 'np'"):
        pipeline.text_to_image("a cat", output_type="np")


def _png_of(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def test_steps_and_guidance_reach_the_decoder(pipeline, image):
    few = pipeline.variations(image, num_steps=1, **PT)
    assert torch.equal(few, pipeline.decoder.decode(image[None], num_steps=1, seed=5))
    guided = pipeline.variations(image, guidance=3.0, **PT)
    assert torch.equal(guided, pipeline.decoder.decode(image[None], guidance=3.0, seed=5))
    assert not torch.equal(few, guided)


def separate_samples(pipeline, image, n):
    return {
        "caption": pipeline.text_to_image("a red apple", n, **PT),
        "captions": pipeline.text_to_image(["a red apple", "a car"], n, **PT),
        "variations": pipeline.variations(image, n, **PT),
        "image and caption": pipeline.edit(image, "a red apple", weight=0.4, num_images=n, **PT),
    }


def test_an_image_is_the_same_however_many_are_sampled_with_it(pipeline, image, monkeypatch):
    few = separate_samples(pipeline, image, 2)
    many = separate_samples(pipeline, image, 9)
    monkeypatch.setattr("corgi_core.decoders.decoder.BATCH_SIZE", 4)
    monkeypatch.setattr("corgi_core.prior.model.CAPTIONS_AT_ONCE", 5)
    in_batches = separate_samples(pipeline, image, 9)
    for name, images in many.items():
        first = torch.cat([of_a_caption[:2] for of_a_caption in images.split(9)])
        torch.testing.assert_close(few[name], first, atol=1e-5, rtol=0, msg=name)
        torch.testing.assert_close(in_batches[name], images, atol=1e-5, rtol=0, msg=name)


# Images


def test_an_image_is_embedded_as_the_training_images_are(pipeline, tmp_path: Path):
    """The same image, from a file of another kind, has the row that the training reads."""
    images = write_images(tmp_path / "images")
    store = embed_images(pipeline.clip, images, None, tmp_path / "embeddings")
    rows = torch.from_numpy(store.read("image")).float()
    for number in (0, 7):
        file = tmp_path / "picture.webp"
        pil(number).save(file, lossless=True)
        z = pipeline.embed_image(picture_file(file))[0]
        torch.testing.assert_close(z, rows[number], atol=2e-3, rtol=2e-3)  # float16
        assert int(mean_encoder_cosine(z, rows, BLOCKS).argmax()) == number


def test_an_image_may_be_pil_a_path_bytes_or_a_tensor(pipeline, image, tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(png(1))
    transparent = pil(1).convert("RGBA")
    turned = pil(1).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90° clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    for given in (pil(1), path, str(path), png(1), transparent, tmp_path / "turned.png",
                  Image.open(tmp_path / "turned.png")):  # fmt: skip
        torch.testing.assert_close(pipeline.embed_image(given)[0], image)
    for given in (pixels(1), pixels(1).float() / 255):
        assert mean_encoder_cosine(pipeline.embed_image(given)[0], image, BLOCKS) > 0.99
    several = pipeline.embed_image([pil(1), path, png(2)])
    torch.testing.assert_close(several[1], image)
    both = pipeline.embed_image(torch.stack([pixels(2), pixels(1)]))
    torch.testing.assert_close(both[1], pipeline.embed_image(pixels(1))[0])


def test_what_is_no_image_is_refused(pipeline, tmp_path: Path):
    for given, problem in [
        (torch.zeros(1, 8, 8), "is no image"), (torch.zeros(3, 0, 8), "is no image"),
        (torch.full((3, 8, 8), -1.0), "values go from -1 to -1"),
        (torch.full((3, 8, 8), math.nan), "values go from nan"),
        (torch.full((3, 8, 8), 255.0), "values go from 255"),
        (b"words", "unknown format"), (tmp_path / "nowhere.png", "there is no picture"),
        ([], "no image"),
    ]:  # fmt: skip
        with pytest.raises(CorgiError, match=problem):
            pipeline.embed_image(given)
    with pytest.raises(CorgiError, match="neither an image nor an embedding"):
        pipeline.variations(torch.rand(2, 3, 8, 8))


def test_variations_are_samples_of_the_decoder_from_one_embedding(pipeline, image):
    images = pipeline.variations(image, 3, **PT)
    assert torch.equal(images, pipeline.decoder.decode(image.repeat(3, 1), seed=5))
    assert (images[0] - images[1]).abs().max() > 1e-3
    torch.testing.assert_close(images, pipeline.variations(pil(1), 3, **PT), atol=1e-5, rtol=0)


def test_an_edit_with_a_prompt_goes_from_the_image_to_the_priors_samples(pipeline, image):
    samples = pipeline.embed_text("a red apple", 2, seed=5)
    for weight, ends in ((0.0, image.repeat(2, 1)), (1.0, samples)):
        found = pipeline.edit(image, "a red apple", weight=weight, num_images=2, **PT)
        torch.testing.assert_close(found, pipeline.decode(ends, **PT), atol=1e-4, rtol=0)
    half = pipeline.decode(slerp(image, samples, 0.5, BLOCKS), **PT)
    assert torch.equal(pipeline.edit(image, "a red apple", num_images=2, **PT), half)


def test_an_interpolation_is_decoded_from_one_noise(pipeline, image, other):
    images = pipeline.interpolate(image, other, 5, **PT)
    middle = slerp(image, other, 0.5, BLOCKS)
    for number, z in ((0, image), (2, middle), (4, other)):
        alone = pipeline.variations(z, **PT)[0]
        torch.testing.assert_close(images[number], alone, atol=1e-4, rtol=0)
    still = pipeline.interpolate(image, image, 3, **PT)
    torch.testing.assert_close(still, images[:1].expand(3, -1, -1, -1), atol=1e-4, rtol=0)


def test_an_interpolation_joins_captions_images_and_embeddings(pipeline, image):
    text = pipeline.embed_text("a red apple", seed=5)[0]
    expected = pipeline.interpolate(text, image, 3, **PT)
    for start, end in (("a red apple", image), (text, pil(1)), ("a red apple", png(1))):
        found = pipeline.interpolate(start, end, 3, **PT)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_sample_for_a_caption_is_the_same_however_many_there_are(pipeline):
    """So an interpolation of two captions differs by their content: both have sample 0's noise."""
    alone, several = (pipeline.embed_text("a red apple", n, seed=5) for n in (1, 3))
    torch.testing.assert_close(alone[0], several[0], atol=1e-4, rtol=0)
    assert (several[0] - several[1]).abs().max() > 1e-3


def test_an_edit_turns_an_image_along_the_difference_of_two_captions(pipeline, image):
    captions = {"before": "a cat", "after": "a dog", "weight": 0.4}
    images = pipeline.edit(image, **captions, num_images=3, **PT)
    texts = pipeline.clip.encode_texts(["a cat", "a dog"])
    direction = text_difference(texts[0], texts[1], BLOCKS)
    points = interpolation(image, slerp(image, direction, 0.4, BLOCKS), 3, BLOCKS)
    angles = cosine_by_encoder(image, points, BLOCKS).acos()
    full = cosine_by_encoder(image, direction, BLOCKS).acos()
    torch.testing.assert_close(angles[2], 0.4 * full, atol=1e-3, rtol=0)
    torch.testing.assert_close(angles[1], 0.2 * full, atol=1e-3, rtol=0)
    for point, found in zip(points, images, strict=True):
        torch.testing.assert_close(pipeline.variations(point, **PT)[0], found, atol=1e-4, rtol=0)
    last = pipeline.edit(image, **captions, **PT)
    torch.testing.assert_close(last, images[2:], atol=1e-4, rtol=0)


def test_an_edit_needs_a_prompt_or_two_captions(pipeline, image):
    for given in ({}, {"before": "a cat"}, {"after": "a cat"},
                  {"prompt": "a cat", "before": "a cat", "after": "a dog"}):  # fmt: skip
        with pytest.raises(CorgiError, match="an edit needs"):
            pipeline.edit(image, **given)
    with pytest.raises(CorgiError, match="the same to CLIP"):
        pipeline.edit(image, before="a cat", after="a cat")


# Saving and loading


def test_a_saved_pipeline_gives_the_same_images_elsewhere(pipeline, saved, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(saved, elsewhere)
    for source in (elsewhere, str(elsewhere)):
        loaded = CorgiPipeline.from_pretrained(source)
        for make in (
            lambda p: p.text_to_image(["a red apple", "a car"], 2, **PT),
            lambda p: p.variations(png(1), 2, **PT),
            lambda p: p.edit(png(1), before="a cat", after="a dog", **PT),
        ):
            assert torch.equal(make(loaded), make(pipeline))
    names = {path.suffix for path in saved.rglob("[!.]*") if path.is_file()}
    assert names == {".json", ".safetensors"}
    assert str(saved.parent) not in (saved / "pipeline.json").read_text()


def test_the_image_towers_are_loaded_when_an_image_comes_in(saved):
    loaded = CorgiPipeline.from_pretrained(saved)
    loaded.text_to_image("a red apple")
    assert isinstance(loaded.clip, ClipTextTower)
    loaded.embed_image(png(1))
    assert isinstance(loaded.clip, ClipEnsemble)


def test_a_text_encoder_in_a_folder_is_saved_with_the_pipeline(pipeline, tmp_path: Path):
    tokens = pipeline.tokens
    tokens.model.save_pretrained(tmp_path / "mine")
    tokens.tokenizer.save_pretrained(tmp_path / "mine")
    mine = replace(pipeline, tokens=type(tokens).load(str(tmp_path / "mine"), TOKENS))
    mine.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "mine")
    loaded = CorgiPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(
        loaded.text_to_image("a red apple", **PT), pipeline.text_to_image("a red apple", **PT)
    )


def test_a_folder_that_is_no_pipeline_is_not_replaced(pipeline, saved, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(png(1))
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(CorgiError, match=r"which Corgi did not write|is a file"):
            pipeline.save_pretrained(tmp_path / name)
    assert (tmp_path / "photos" / "cat.png").read_bytes() == png(1)
    (tmp_path / "empty").mkdir()
    shutil.copytree(saved, tmp_path / "older")
    for name in ("empty", "older"):
        pipeline.save_pretrained(tmp_path / name)
        assert CorgiPipeline.from_pretrained(tmp_path / name).prior.digest == pipeline.prior.digest
    (tmp_path / "older" / "notes.txt").write_text("mine")
    with pytest.raises(CorgiError, match=r"notes\.txt, which Corgi did not write"):
        pipeline.save_pretrained(tmp_path / "older")


def test_a_pipeline_that_cannot_be_saved_leaves_the_older_one(
    pipeline, saved, tmp_path, monkeypatch
):
    shutil.copytree(saved, tmp_path / "older")
    monkeypatch.setattr(type(pipeline.decoder), "save", _no_space)
    with pytest.raises(OSError, match="No space"):
        pipeline.save_pretrained(tmp_path / "older")
    CorgiPipeline.from_pretrained(tmp_path / "older")
    assert [path.name for path in tmp_path.iterdir()] == ["older"]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_pipeline_that_is_not_whole_or_not_its_own_is_refused(pipeline, saved, tmp_path: Path):
    def changed(name: str) -> Path:
        return Path(shutil.copytree(saved, tmp_path / name))

    damaged = changed("damaged")
    weights = damaged / "clip" / "0" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    half = changed("half")
    (half / "clip" / "1" / "model.safetensors").unlink()
    mixed = changed("mixed")
    shutil.rmtree(mixed / "prior")
    prior = type(pipeline.prior)(
        _random_like(pipeline.prior.network), pipeline.prior.bank, pipeline.prior.settings,
        pipeline.prior.encoders, {},
    )  # fmt: skip
    prior.save(mixed / "prior")
    for folder in (damaged, half, mixed):
        with pytest.raises(CorgiError, match=r"missing or not what pipeline\.json lists"):
            CorgiPipeline.from_pretrained(folder)
    newer = changed("newer")
    description = json.loads((newer / "pipeline.json").read_text()) | {"format": 9}
    (newer / "pipeline.json").write_text(json.dumps(description))
    with pytest.raises(CorgiError, match="pipeline format 9"):
        CorgiPipeline.from_pretrained(newer)
    for source in (tmp_path, f"{tmp_path}/nowhere", "./nowhere"):
        with pytest.raises(CorgiError, match="holds no pipeline"):
            CorgiPipeline.from_pretrained(source)


def _random_like(network: nn.Module) -> nn.Module:
    other = type(network)(network.shape).eval()
    return other


# A workspace


@pytest.fixture(scope="module")
def home(pipeline, tmp_path_factory) -> Path:
    """A folder of workspaces with one whose models are registered."""
    home = tmp_path_factory.mktemp("home") / ".corgi"
    other = type(pipeline.decoder)(
        _random_like(pipeline.decoder.network), pipeline.decoder.settings,
        pipeline.decoder.encoders, {},
    )  # fmt: skip
    register(
        pipeline, home, "emoji",
        **{"gan": ("decoder", other), "language-free": ("prior", pipeline.prior)},
    )  # fmt: skip
    return home


def test_a_workspace_gives_its_champions(pipeline, home):
    loaded = CorgiPipeline.from_pretrained("emoji", home=home)
    assert torch.equal(
        loaded.text_to_image("a red apple", 2, **PT), pipeline.text_to_image("a red apple", 2, **PT)
    )


def test_an_alias_replaces_the_champion(pipeline, home):
    gan = CorgiPipeline.from_pretrained("emoji@gan", home=home)
    assert gan.decoder.digest != pipeline.decoder.digest
    assert gan.prior.digest == pipeline.prior.digest
    named = CorgiPipeline.from_pretrained("emoji", home=home, decoder="gan", prior="language-free")
    assert named.decoder.digest == gan.decoder.digest
    CorgiPipeline.from_pretrained("emoji@language-free", home=home)
    folder = str(home / "mlflow" / "artifacts" / "decoder-gan")
    elsewhere = CorgiPipeline.from_pretrained("emoji", home=home, decoder=folder)
    assert elsewhere.decoder.digest == gan.decoder.digest


def test_a_workspace_may_be_moved(pipeline, home, tmp_path):
    shutil.copytree(home, tmp_path / "moved")
    moved = CorgiPipeline.from_pretrained("emoji", home=tmp_path / "moved")
    assert str(moved.clip_folder).startswith(str(tmp_path))
    assert moved.decoder.digest == pipeline.decoder.digest


def test_what_is_not_registered_is_said(pipeline, home, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, folder, problem in [
        ("emoji@vqgan", home, "choose one of champion, gan"),
        ("photos", home, "neither a saved pipeline nor a workspace"),
        ("emoji/../emoji", home, "neither a saved pipeline nor a workspace"),
        ("empty", tmp_path, "nothing is registered"),
    ]:
        with pytest.raises(CorgiError, match=problem):
            CorgiPipeline.from_pretrained(name, home=folder)
    shutil.copytree(home, tmp_path / "home")
    shutil.rmtree(tmp_path / "home" / "mlflow" / "artifacts" / "decoder-gan")
    with pytest.raises(CorgiError, match="is gone"):
        CorgiPipeline.from_pretrained("emoji@gan", home=tmp_path / "home")
    pipeline.decoder.save(tmp_path / "home" / "mlflow" / "artifacts" / "decoder-gan")
    with pytest.raises(CorgiError, match="holds the model"):
        CorgiPipeline.from_pretrained("emoji@gan", home=tmp_path / "home")
    for written, problem in (
        ('{"format": 2}', "is damaged"),
        ('{"format": 1}', "has the format 1"),
    ):
        (tmp_path / "home" / "emoji" / "models.json").write_text(written)
        with pytest.raises(CorgiError, match=problem):
            CorgiPipeline.from_pretrained("emoji", home=tmp_path / "home")


# Devices


def test_all_models_move_to_a_device(saved):
    for needs_images in (False, True):
        loaded = CorgiPipeline.from_pretrained(saved)
        if needs_images:
            loaded.embed_image(png(1))
        assert loaded.to("meta") is loaded
        parts = (loaded.clip, loaded.tokens, loaded.prior.network, loaded.prior.bank,
                 loaded.decoder.network)  # fmt: skip
        for part in parts:
            tensors = [*part.parameters(), *part.buffers()]
            assert tensors
            assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert loaded.device.type == "meta"


def test_inputs_are_moved_to_the_models(saved, monkeypatch):
    """What comes in is on the CPU; the models are on the meta device, which refuses a mixture."""
    loaded = CorgiPipeline.from_pretrained(saved)
    whole = CorgiPipeline.from_pretrained(saved)
    whole.embed_image(png(1))
    loaded.to("meta")
    whole.clip.to("meta")
    whole.prior.to("meta")
    assert whole.clip.encode_texts(["a cat", "a dog"]).device.type == "meta"
    assert whole.embed_image(png(1)).device.type == "meta"
    tokens, mask = whole.tokens.encode(["a cat"])
    text = whole.clip.encode_texts(["a cat"])
    z = whole.prior.sample(tokens.to("meta"), mask.to("meta"), text)
    assert z.device.type == "meta"
    monkeypatch.setattr(torch, "isfinite", lambda z: torch.ones(1, dtype=torch.bool))
    images = loaded._decode(torch.randn(2, sum(BLOCKS)), None, None, 0)
    assert images.device.type == "meta"


# What is refused


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_parts_of_different_clip_encoders_are_refused(pipeline, part):
    model = getattr(pipeline, part)
    foreign = type(model)(
        model.network, *((model.bank,) if part == "prior" else ()), model.settings,
        {**model.encoders, "encoder": "another-clip"}, model.card,
    )  # fmt: skip
    with pytest.raises(CorgiError, match=f"{part}: another-clip"):
        replace(pipeline, **{part: foreign})


@pytest.mark.parametrize(
    "prompt", ["", " \n", "x" * (MAX_PROMPT_LENGTH + 1), "x" * 100_000, "\udcff\udcfe"]
)
def test_a_caption_has_limits(pipeline, image, prompt):
    for make in (
        lambda: pipeline.text_to_image(prompt),
        lambda: pipeline.text_to_image(["a cat", prompt]),
        lambda: pipeline.embed_text(prompt),
        lambda: pipeline.edit(image, prompt),
        lambda: pipeline.edit(image, before="a cat", after=prompt, num_images=2),
        lambda: pipeline.interpolate(image, prompt),
    ):
        with pytest.raises(CorgiError, match="prompt") as refused:
            make()
        str(refused.value).encode()


def test_a_caption_may_be_as_long_as_the_limit():
    assert check_prompts("x" * MAX_PROMPT_LENGTH) == ["x" * MAX_PROMPT_LENGTH]
    with pytest.raises(CorgiError, match="there is no prompt"):
        check_prompts([])


@pytest.mark.parametrize("n", [-1, 0, MAX_IMAGES + 1, 10**6])
def test_the_number_of_images_has_limits(pipeline, image, other, n):
    for make in (
        lambda: pipeline.text_to_image("a red apple", n),
        lambda: pipeline.variations(image, n),
        lambda: pipeline.edit(image, "a red apple", num_images=n),
        lambda: pipeline.interpolate(image, other, n),
        lambda: pipeline.edit(image, before="a cat", after="a dog", num_images=n),
    ):
        with pytest.raises(CorgiError, match=f"{n} images"):
            make()
    with pytest.raises(CorgiError, match=rf"1026 images were asked for \({513} for each prompt"):
        pipeline.text_to_image(["a cat", "a dog"], 513)


def test_large_images_are_fewer(pipeline):
    """All together they have MAX_PIXELS at most, so memory has a bound whatever the decoder."""
    decoder = pipeline.decoder
    large = type(decoder)(
        decoder.network, replace(decoder.settings, image_size=1024), decoder.encoders, {}
    )
    most = MAX_PIXELS // 1024**2
    assert most < MAX_IMAGES
    with pytest.raises(CorgiError, match=f"ask for 1 to {most}"):
        replace(pipeline, decoder=large).text_to_image("a red apple", most + 1)


@pytest.mark.parametrize("guidance", [math.nan, math.inf, -1, 1e30])
def test_guidance_has_bounds(pipeline, image, guidance):
    for make in (
        lambda: pipeline.text_to_image("a cat", guidance=guidance),
        lambda: pipeline.variations(image, guidance=guidance),
        lambda: pipeline.embed_text("a cat", guidance=guidance),
    ):
        with pytest.raises(CorgiError, match="between 0 and 100"):
            make()


def test_embeddings_of_another_width_or_not_finite_are_refused(pipeline, image, other):
    for short in (image[:-1], image[: BLOCKS[0]]):
        for make in (
            lambda z=short: pipeline.variations(z),
            lambda z=short: pipeline.edit(z, "a red apple"),
            lambda z=short: pipeline.interpolate(z, other, 2),
            lambda z=short: pipeline.edit(z, before="a cat", after="a dog", num_images=2),
        ):
            with pytest.raises(CorgiError, match="embeddings"):
                make()
    with pytest.raises(CorgiError, match="not finite"):
        pipeline.variations(image * math.nan)
    with pytest.raises(CorgiError, match="not finite"):
        pipeline.interpolate(image, image * math.inf, 2)


def test_a_text_tower_alone_reads_captions_as_the_whole_does_and_no_images(
    pipeline, tmp_path: Path
):
    pipeline.clip.save(tmp_path / "clip")
    alone = replace(pipeline, clip=ClipTextTower.load(tmp_path / "clip"))
    images = alone.text_to_image("a red apple", 2, **PT)
    torch.testing.assert_close(images, pipeline.text_to_image("a red apple", 2, **PT))
    with pytest.raises(CorgiError, match="reads no images"):
        alone.embed_image(png(1))


def test_an_unreadable_image_says_what_is_wrong(tmp_path: Path):
    (tmp_path / "words.png").write_text("no picture at all")
    (tmp_path / "cut.png").write_bytes(png(1)[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    for name, problem in {
        "nowhere.png": "there is no picture", ".": "there is no picture",
        "words.png": "unknown format", "cut.png": "damaged", "empty.png": "empty file",
        "bomb.png": "too many pixels",
    }.items():  # fmt: skip
        with pytest.raises(CorgiError, match=problem):
            picture_file(tmp_path / name)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(CorgiError, match="larger than 256 MiB"):
        picture_file(tmp_path / "huge.png")


def test_a_decoder_that_reads_captions_reads_them_beside_embeddings(pipeline, image):
    def reader(text_encoder: str) -> CascadeDecoder:
        cascade = PRESET.decoder_of("cascade")
        stage = replace(cascade.stages[0], size=SIDE, channels=(8, 16))
        settings = replace(
            cascade, image_size=SIDE, stages=(stage,), text_width=pipeline.tokens.width
        )
        torch.manual_seed(0)
        network = CascadeNetwork(CascadeShape.of(settings, sum(BLOCKS))).eval()
        encoders = {**pipeline.decoder.encoders, "text_encoder": text_encoder}
        return CascadeDecoder(network, settings, encoders, {})

    reading = replace(pipeline, decoder=reader(pipeline.tokens.digest))
    samples = reading.embed_text("a red apple", 2, seed=5)
    with_text = reading.text_to_image("a red apple", 2, **PT)
    without = reading.decode(samples, **PT)
    words = reading.tokens.encode(["a red apple", "a red apple"])
    by_hand = reading.decoder.decode(samples, TextCond(*words), seed=5)
    torch.testing.assert_close(with_text, by_hand, atol=1e-4, rtol=0)
    assert (with_text - without).abs().max() > 1e-3
    blended = reading.edit(image, "a red apple", weight=0.0, num_images=2, **PT)
    assert (blended - reading.variations(image, 2, **PT)).abs().max() > 1e-3
    with pytest.raises(CorgiError, match="the decoder reads tokens of the text encoder other"):
        replace(pipeline, decoder=reader("other"))


def test_a_decoder_that_takes_texts_gets_the_captions_own_embedding(pipeline):
    class TextDecoder(type(pipeline.decoder)):
        input_kind = "text"

    parts = pipeline.decoder
    decoder = TextDecoder(parts.network, parts.settings, parts.encoders, {})
    direct = replace(pipeline, decoder=decoder)
    text = pipeline.clip.encode_texts(["a red apple"])
    assert torch.equal(direct.embed_text("a red apple", 3, seed=5), text.expand(3, -1))
    images = direct.text_to_image("a red apple", 3, **PT)
    torch.testing.assert_close(images, pipeline.decode(text.repeat(3, 1), **PT))
    assert (images - pipeline.text_to_image("a red apple", 3, **PT)).abs().max() > 1e-3
    assert (images[0] - images[1]).abs().max() > 1e-3
