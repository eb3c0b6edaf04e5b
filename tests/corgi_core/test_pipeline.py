"""From captions and images to pictures: real parts, tiny and untrained, that fit each other."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from corgi_core.data.normalise import picture_file
from corgi_core.decoders.cascade.decoder import CascadeDecoder
from corgi_core.decoders.cascade.network import CascadeNetwork, CascadeShape
from corgi_core.decoders.decoder import Text
from corgi_core.encoders.clip_text import ClipTextTower
from corgi_core.encoders.embed import embed_images
from corgi_core.encoders.similarity import cosine_by_encoder, mean_encoder_cosine
from corgi_core.encoders.spherical import slerp, text_difference, way
from corgi_core.errors import CorgiError
from corgi_core.pipeline import (
    LONGEST_PROMPT,
    MOST_IMAGES,
    MOST_PIXELS,
    Generator,
    Sampling,
    check_prompt,
)
from tests.helpers.tiny_generator import BLOCKS, PRESET, SIDE, png, write_images

FIVE = Sampling(seed=5)


@pytest.fixture(scope="module")
def image(generator):
    return generator.embed_image(png(1))


@pytest.fixture(scope="module")
def other(generator):
    return generator.embed_image(png(2))


def test_a_caption_becomes_pictures_that_depend_on_caption_seed_and_number(generator):
    pictures = generator.generate("a red apple", 3, FIVE)
    assert pictures.shape == (3, 3, SIDE, SIDE)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert torch.equal(pictures, generator.generate("a red apple", 3, FIVE))
    for other in (pictures[1], generator.generate("a red apple", 1, Sampling(seed=6))[0],
                  generator.generate("a green car", 1, FIVE)[0]):  # fmt: skip
        assert (pictures[0] - other).abs().max() > 1e-3


def separate_draws(generator, image, count):
    return {
        "caption": generator.generate("a red apple", count, FIVE),
        "variations": generator.vary(image, count, FIVE),
        "image and caption": generator.blend(image, "a red apple", 0.4, count, FIVE),
    }


def test_a_picture_is_the_same_however_many_are_drawn_with_it(generator, image, monkeypatch):
    few = separate_draws(generator, image, 2)
    many = separate_draws(generator, image, 9)
    monkeypatch.setattr("corgi_core.decoders.decoder.PICTURES_AT_ONCE", 4)
    monkeypatch.setattr("corgi_core.prior.model.CAPTIONS_AT_ONCE", 5)
    in_batches = separate_draws(generator, image, 9)
    for name, pictures in many.items():
        torch.testing.assert_close(few[name], pictures[:2], atol=1e-5, rtol=0, msg=name)
        torch.testing.assert_close(in_batches[name], pictures, atol=1e-5, rtol=0, msg=name)


def test_an_image_is_embedded_as_the_training_images_are(generator, tmp_path: Path):
    """The same picture, from a file of another kind, has the row that the training reads."""
    images = write_images(tmp_path / "images")
    store = embed_images(generator.clip, images, None, tmp_path / "embeddings")
    rows = torch.from_numpy(store.read("image")).float()
    for number in (0, 7):
        file = tmp_path / "picture.webp"
        Image.open(io.BytesIO(png(number))).save(file, lossless=True)
        z = generator.embed_image(picture_file(file))
        torch.testing.assert_close(z, rows[number], atol=2e-3, rtol=2e-3)  # float16
        assert int(mean_encoder_cosine(z, rows, BLOCKS).argmax()) == number


def test_variations_are_draws_of_the_decoder_from_one_embedding(generator, image):
    pictures = generator.vary(image, 3, FIVE)
    assert torch.equal(pictures, generator.decoder.decode(image.repeat(3, 1), seed=5))
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3


def test_a_blend_goes_from_the_image_to_the_captions_draws(generator, image):
    draws = generator.embed_caption("a red apple", 2, FIVE)
    for weight, ends in ((0.0, image.repeat(2, 1)), (1.0, draws)):
        found = generator.blend(image, "a red apple", weight, 2, FIVE)
        torch.testing.assert_close(found, generator.draw(ends, FIVE), atol=1e-4, rtol=0)
    half = generator.draw(slerp(image, draws, 0.5, BLOCKS), FIVE)
    assert torch.equal(generator.blend(image, "a red apple", 0.5, 2, FIVE), half)


def test_a_way_is_drawn_from_one_noise(generator, image, other):
    pictures = generator.interpolate(image, other, 5, FIVE)
    torch.testing.assert_close(pictures[0], generator.vary(image, 1, FIVE)[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(pictures[4], generator.vary(other, 1, FIVE)[0], atol=1e-4, rtol=0)
    middle = slerp(image, other, 0.5, BLOCKS)
    torch.testing.assert_close(pictures[2], generator.vary(middle, 1, FIVE)[0], atol=1e-4, rtol=0)
    still = generator.interpolate(image, image, 3, FIVE)
    torch.testing.assert_close(still, pictures[:1].expand(3, -1, -1, -1), atol=1e-4, rtol=0)


def test_a_draw_for_a_caption_is_the_same_however_many_there_are(generator):
    """So a way between two captions differs by what they say alone: both have draw 0's noise."""
    alone, several = (generator.embed_caption("a red apple", n, FIVE) for n in (1, 3))
    torch.testing.assert_close(alone[0], several[0], atol=1e-4, rtol=0)
    assert (several[0] - several[1]).abs().max() > 1e-3


def test_an_image_moves_along_the_difference_of_two_captions(generator, image):
    pictures = generator.move(image, "a cat", "a dog", 3, 0.4, FIVE)
    texts = generator.clip.encode_texts(["a cat", "a dog"])
    direction = text_difference(texts[0], texts[1], BLOCKS)
    points = way(image, slerp(image, direction, 0.4, BLOCKS), 3, BLOCKS)
    angles = cosine_by_encoder(image, points, BLOCKS).acos()
    full = cosine_by_encoder(image, direction, BLOCKS).acos()
    torch.testing.assert_close(angles[2], 0.4 * full, atol=1e-3, rtol=0)
    torch.testing.assert_close(angles[1], 0.2 * full, atol=1e-3, rtol=0)
    for point, drawn in zip(points, pictures, strict=True):
        torch.testing.assert_close(generator.vary(point, 1, FIVE)[0], drawn, atol=1e-4, rtol=0)


# What is refused


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_parts_of_different_clip_encoders_are_refused(generator, part):
    model = getattr(generator, part)
    stranger = type(model)(
        model.network, *((model.bank,) if part == "prior" else ()), model.settings,
        {**model.encoders, "encoder": "another-clip"}, model.card,
    )  # fmt: skip
    with pytest.raises(CorgiError, match=f"{part}: another-clip"):
        replace(generator, **{part: stranger})


@pytest.mark.parametrize("prompt", ["", " \n", "x" * (LONGEST_PROMPT + 1), "x" * 100_000])
def test_a_caption_has_limits(generator, image, prompt):
    for draw in (
        lambda: generator.generate(prompt),
        lambda: generator.blend(image, prompt),
        lambda: generator.move(image, "a cat", prompt, 2),
    ):
        with pytest.raises(CorgiError, match="prompt"):
            draw()


def test_a_caption_may_be_as_long_as_the_limit():
    check_prompt("x" * LONGEST_PROMPT)


@pytest.mark.parametrize("count", [-1, 0, MOST_IMAGES + 1, 10**6])
def test_the_number_of_pictures_has_limits(generator, image, other, count):
    for draw in (
        lambda: generator.generate("a red apple", count),
        lambda: generator.vary(image, count),
        lambda: generator.blend(image, "a red apple", 0.5, count),
        lambda: generator.interpolate(image, other, count),
        lambda: generator.move(image, "a cat", "a dog", count),
    ):
        with pytest.raises(CorgiError, match=f"{count} pictures"):
            draw()


def test_large_pictures_are_fewer(generator):
    """All together they have MOST_PIXELS at most, so memory has a bound whatever the decoder."""
    decoder = generator.decoder
    large = type(decoder)(
        decoder.network, replace(decoder.settings, image_size=1024), decoder.encoders, {}
    )
    most = MOST_PIXELS // 1024**2
    assert most < MOST_IMAGES
    with pytest.raises(CorgiError, match=f"1 to {most} at a time"):
        replace(generator, decoder=large).generate("a red apple", most + 1)


@pytest.mark.parametrize("guidance", [math.nan, math.inf])
def test_guidance_is_finite(guidance):
    with pytest.raises(CorgiError, match="guidance"):
        Sampling(guidance=guidance)


def test_embeddings_of_another_width_or_not_finite_are_refused(generator, image, other):
    for short in (image[:-1], image[: BLOCKS[0]]):
        for draw in (
            lambda z=short: generator.vary(z),
            lambda z=short: generator.blend(z, "a red apple"),
            lambda z=short: generator.interpolate(z, other, 2),
            lambda z=short: generator.move(z, "a cat", "a dog", 2),
        ):
            with pytest.raises(CorgiError, match="embeddings"):
                draw()
    with pytest.raises(CorgiError, match="not finite"):
        generator.vary(image * math.nan)
    with pytest.raises(CorgiError, match="not finite"):
        generator.interpolate(image, image * math.inf, 2)


def test_a_text_tower_alone_draws_captions_as_the_whole_does_and_reads_no_images(
    generator, tmp_path: Path
):
    generator.clip.save(tmp_path / "clip")
    alone = replace(generator, clip=ClipTextTower.load(tmp_path / "clip"))
    drawn = alone.generate("a red apple", 2, FIVE)
    torch.testing.assert_close(drawn, generator.generate("a red apple", 2, FIVE))
    with pytest.raises(CorgiError, match="reads no images"):
        alone.embed_image(png(1))
    assert isinstance(alone, Generator)


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


def test_a_decoder_that_reads_captions_reads_them_beside_embeddings(generator, image):
    def reader(text_encoder: str) -> CascadeDecoder:
        cascade = PRESET.decoder_of("cascade")
        stage = replace(cascade.stages[0], size=SIDE, channels=(8, 16))
        settings = replace(
            cascade, image_size=SIDE, stages=(stage,), text_width=generator.tokens.width
        )
        torch.manual_seed(0)
        network = CascadeNetwork(CascadeShape.of(settings, sum(BLOCKS))).eval()
        encoders = {**generator.decoder.encoders, "text_encoder": text_encoder}
        return CascadeDecoder(network, settings, encoders, {})

    reading = replace(generator, decoder=reader(generator.tokens.digest))
    draws = reading.embed_caption("a red apple", 2, FIVE)
    told, untold = reading.generate("a red apple", 2, FIVE), reading.draw(draws, FIVE)
    words = reading.tokens.encode(["a red apple", "a red apple"])
    by_hand = reading.decoder.decode(draws, Text(*words), seed=FIVE.seed)
    torch.testing.assert_close(told, by_hand, atol=1e-4, rtol=0)
    assert (told - untold).abs().max() > 1e-3
    blended = reading.blend(image, "a red apple", 0.0, 2, FIVE)
    assert (blended - reading.vary(image, 2, FIVE)).abs().max() > 1e-3
    with pytest.raises(CorgiError, match="the decoder reads tokens of the text encoder other"):
        replace(generator, decoder=reader("other"))


def test_a_decoder_that_takes_texts_gets_the_captions_own_embedding(generator):
    class TextDecoder(type(generator.decoder)):
        takes = "text"

    parts = generator.decoder
    decoder = TextDecoder(parts.network, parts.settings, parts.encoders, {})
    direct = replace(generator, decoder=decoder)
    text = generator.clip.encode_texts(["a red apple"])
    assert torch.equal(direct.embed_caption("a red apple", 3, FIVE), text.expand(3, -1))
    drawn = direct.generate("a red apple", 3, FIVE)
    torch.testing.assert_close(drawn, generator.draw(text.repeat(3, 1), FIVE))
    assert (drawn - generator.generate("a red apple", 3, FIVE)).abs().max() > 1e-3
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
