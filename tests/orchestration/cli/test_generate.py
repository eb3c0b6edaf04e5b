"""`corgi generate` with a real registry of tiny models: what is given decides what is generated."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from corgi_core.encoders.embed import embed_images
from corgi_core.errors import CorgiError
from corgi_core.generation import Request, generate
from corgi_core.io import released
from corgi_core.io.model_index import CHAMPION, TextEncoderName
from corgi_core.io.pictures import MARGIN
from corgi_core.released.first_pictures import CAPTIONS
from orchestration.cli.app import cli
from orchestration.cli.generate import load_pipeline, training_images
from orchestration.cli.run import show_first_pictures
from orchestration.resources.model_registry import Registry
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings
from tests.helpers.tiny_pipeline import SIDE, TOKENS, png, register, write_images


@pytest.fixture(scope="module")
def settings(pipeline, tmp_path_factory) -> Settings:
    """A workspace with champions, training images and their embeddings."""
    folder = tmp_path_factory.mktemp("workspace")
    settings = Settings.from_environment(
        {"CORGI_HOME": str(folder / ".corgi"), "CORGI_DATA": str(folder / "data"),
         "CORGI_PRESET": "emoji-small"}
    )  # fmt: skip
    registry = Registry(MLflow.of(settings))
    parts = {"prior": pipeline.prior, "decoder": pipeline.decoder, "clip": pipeline.clip}
    for name, part in parts.items():
        registry.alias(name, CHAMPION, registry.register(name, part, {}, "tiny"))
    registry.alias(
        "decoder", "other", registry.register("decoder", other_decoder(pipeline), {}, "")
    )
    registry.write_index(TextEncoderName("minilm", TOKENS))
    images = write_images(Path(str(settings.dataset_folder)) / "images")
    embed_images(pipeline.clip, images, None, settings.storage / "image_embeddings")
    return settings


def other_decoder(pipeline):
    other = copy.deepcopy(pipeline.decoder)
    for parameter in other.network.parameters():
        parameter.data *= 0.9
    return other


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(png(number))
    return [folder / "1.png", folder / "2.png"]


def generated(settings, captions, images, out, **options) -> tuple[Image.Image, str]:
    defaults = {
        "count": None, "weight": None, "nearest": 0, "seed": 3, "steps": 2, "guidance": None,
        "prior": None, "decoder": None,
    }  # fmt: skip
    o = {**defaults, **options}
    request = Request.of(
        captions, images, o["count"], o["weight"], o["seed"], o["steps"], o["guidance"]
    )
    loaded = load_pipeline(settings, o["prior"], o["decoder"])
    training = training_images(settings, loaded.clip.digest) if o["nearest"] else None
    text = generate(loaded, request, out, training, o["nearest"])
    return Image.open(out), text


@pytest.mark.parametrize(
    ("captions", "images", "options", "pictures", "said"),
    [
        (["a cat"], 0, {}, 1, "1 × 'a cat'"),
        (["a cat"], 0, {"count": 4}, 4, "4 × 'a cat'"),
        ([], 1, {"count": 4}, 4, "4 × variations of 1.png"),
        (["a cat"], 1, {"weight": 0.25, "count": 4}, 4, "4 × 1.png with 'a cat'"),
        (["a cat", "a dog"], 0, {}, 8, "8 steps from 'a cat' to 'a dog'"),
        ([], 2, {"count": 3}, 3, "3 steps from 1.png to 2.png"),
        (["a cat", "a dog"], 1, {}, 8, "1.png in 8 steps from 'a cat' towards 'a dog'"),
    ],
)
def test_what_is_given_decides_what_is_generated(
    settings, files, tmp_path, captions, images, options, pictures, said
):
    sheet, words = generated(settings, captions, files[:images], tmp_path / "x.png", **options)
    assert words == f"{tmp_path / 'x.png'}: {said}"
    rows = 2 if pictures == 4 else 1
    step, columns = SIDE + MARGIN, pictures // rows
    one = (SIDE, SIDE)
    assert sheet.size == (one if pictures == 1 else (columns * step + MARGIN, rows * step + MARGIN))
    made = json.loads(sheet.text["corgi"])
    assert made["captions"] == captions
    assert [image["name"] for image in made["images"]] == [file.name for file in files[:images]]
    assert made["count"] == pictures
    default = {1: 0.5, 2: 0.35}[len(captions)] if captions and images else None
    assert made["weight"] == options.get("weight", default)
    assert (made["seed"], made["steps"]) == (3, 2)
    again, _ = generated(settings, captions, files[:images], tmp_path / "y.png", **options)
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(again))


def test_a_way_is_a_film_too_with_the_nearest_training_images_beside_it(settings, files, tmp_path):
    film, said = generated(settings, [], files, tmp_path / "x.gif", count=3, nearest=2)
    assert film.n_frames == 4
    made = json.loads(film.info["comment"])
    assert [len(row) for row in made["nearest"]] == [2, 2, 2]
    best = max((near for row in made["nearest"] for near in row), key=lambda near: near["cosine"])
    assert f"(cosine {best['cosine']:.4f})" in said
    plain, _ = generated(settings, [], files, tmp_path / "y.gif", count=3)
    assert plain.size == (SIDE, SIDE)
    assert film.width > 3 * SIDE
    sheet, _ = generated(settings, [], files, tmp_path / "x.png", count=3, nearest=2)
    assert json.loads(sheet.text["corgi"])["nearest"] == made["nearest"]


@pytest.mark.parametrize(
    ("captions", "images", "options", "problem"),
    [
        (["a cat"], 2, {}, "2 images and 1 captions"),
        (["a cat"], 0, {"count": 10**6}, "1000000 images"),
        (["a cat", "a dog"], 0, {"count": 1}, "has no two ends"),
        (["a cat"], 1, {"weight": 1.5}, "0 and 1"),
        (["a cat"], 1, {"weight": float("nan")}, "0 and 1"),
        (["a cat", "a cat"], 1, {}, "same to CLIP"),
        (["a cat"], 0, {"nearest": 9}, "9 nearest of 8"),
        (["a cat"], 0, {"nearest": 10**6}, "1000001 images"),
        (["x" * 100_000], 0, {}, "100,000 characters"),
        (["a cat"], 0, {"steps": 0}, "0 decoder steps"),
        (["a cat"], 0, {"decoder": "gan"}, "no decoder with the alias 'gan'"),
    ],
)
def test_what_cannot_be_generated_is_said_and_nothing_is_written(
    settings, files, tmp_path, captions, images, options, problem
):
    with pytest.raises(CorgiError, match=problem):
        generated(settings, captions, files[:images], tmp_path / "x.png", **options)
    assert not list(tmp_path.iterdir())


def test_the_command_needs_no_database_of_mlflow(settings, tmp_path):
    expected, _ = generated(settings, ["a cat"], [], tmp_path / "x.png")
    database, away = settings.home / "mlflow" / "mlflow.db", tmp_path / "away"
    shutil.move(database, away)
    try:
        words = ["generate", "a cat", "--seed", "3", "--steps", "2", "--out", f"{tmp_path}/y.png"]
        variables = {"CORGI_HOME": str(settings.home), "CORGI_PRESET": "emoji-small"}
        made = CliRunner().invoke(cli, words, env=variables)
        assert made.exit_code == 0, made.output
        assert not database.exists()  # nor does it make one
    finally:
        shutil.move(away, database)
    np.testing.assert_array_equal(Image.open(tmp_path / "y.png"), expected)


def test_another_decoder_decodes_by_its_alias(settings, pipeline, tmp_path):
    champion, _ = generated(settings, ["a cat"], [], tmp_path / "x.png")
    other, _ = generated(settings, ["a cat"], [], tmp_path / "y.png", decoder="other")
    assert np.abs(np.asarray(champion, float) - np.asarray(other, float)).max() > 1
    assert json.loads(other.text["corgi"])["decoder"] == other_decoder(pipeline).digest


def test_a_prior_and_a_decoder_may_come_from_folders_if_they_fit(settings, pipeline, tmp_path):
    pipeline.prior.save(tmp_path / "prior")
    other_decoder(pipeline).save(tmp_path / "decoder")
    folders = {"prior": f"{tmp_path}/prior", "decoder": f"{tmp_path}/decoder"}
    generated(settings, ["a cat"], [], tmp_path / "x.png", **folders)
    made = json.loads(Image.open(tmp_path / "x.png").text["corgi"])
    assert made["prior"] == pipeline.prior.digest
    assert made["decoder"] == other_decoder(pipeline).digest
    mismatched = copy.deepcopy(pipeline.prior)
    mismatched.encoders["encoder"] = "another-clip"
    mismatched.save(tmp_path / "mismatched")
    with pytest.raises(CorgiError, match=r"different CLIP encoders.*prior: another-clip"):
        generated(settings, ["a cat"], [], tmp_path / "y.png", prior=f"{tmp_path}/mismatched")
    with pytest.raises(CorgiError, match="nowhere"):
        generated(settings, ["a cat"], [], tmp_path / "y.png", prior=f"{tmp_path}/nowhere")


def test_before_anything_is_registered_the_datas_own_clip_reads(pipeline, tmp_path):
    settings = Settings.from_environment(
        {"CORGI_HOME": str(tmp_path / ".corgi"), "CORGI_PRESET": "emoji-small"}
    )
    pipeline.clip.save(settings.storage / "clip_encoder")
    for part, model in (("prior", pipeline.prior), ("decoder", pipeline.decoder)):
        model.save(tmp_path / part)
    folders = {part: f"{tmp_path}/{part}" for part in ("prior", "decoder")}
    picture, _ = generated(settings, ["a cat"], [], tmp_path / "x.png", **folders)
    assert picture.size == (16, 16)
    with pytest.raises(CorgiError, match="nothing is registered"):
        generated(settings, ["a cat"], [], tmp_path / "y.png", decoder=folders["decoder"])


def test_training_images_of_other_encoders_are_refused(settings, pipeline, tmp_path):
    index = settings.storage / "image_embeddings" / "index.json"
    content = index.read_text()
    index.write_text(content.replace(pipeline.clip.digest, "another-clip"))
    try:
        with pytest.raises(CorgiError, match="another-clip"):
            generated(settings, ["a cat"], [], tmp_path / "x.png", nearest=1)
    finally:
        index.write_text(content)


def test_before_there_are_champions_the_released_model_samples_and_is_named(
    pipeline, tmp_path, monkeypatch
):
    package = tmp_path / "package"
    pipeline.save_pretrained(package / "emoji-full")
    monkeypatch.setattr(released, "FOLDER", package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORGI_HOME", str(tmp_path / ".corgi"))
    made = CliRunner().invoke(cli, ["generate", "a cat", "--steps", "2"])
    assert made.exit_code == 0, made.output
    assert "Made by the released model emoji-full; `corgi demo` trains your own." in made.output
    assert Image.open(tmp_path / "picture.png").size == (SIDE, SIDE)
    own = CliRunner().invoke(cli, ["generate", "a cat", "--dataset", "photos"])
    assert own.exit_code != 0
    near = CliRunner().invoke(cli, ["generate", "a cat", "--nearest", "1"])
    assert "comes without its training images" in near.output
    register(pipeline, tmp_path / ".corgi", "emoji")
    made = CliRunner().invoke(cli, ["generate", "a cat", "--steps", "2"])
    assert "Made by the models of the workspace emoji." in made.output


def test_a_demo_begins_with_pictures_by_the_released_model(
    settings, pipeline, tmp_path, monkeypatch, capsys
):
    package = tmp_path / "package"
    pipeline.save_pretrained(package / "emoji-full")
    monkeypatch.setattr(released, "FOLDER", package)
    new = Settings.from_environment({"CORGI_HOME": str(tmp_path / ".corgi")})
    show_first_pictures(new)
    (line,) = capsys.readouterr().out.splitlines()
    file = Path(line.rpartition(": ")[2])
    with Image.open(file) as picture:
        assert picture.height > len(CAPTIONS) * SIDE
    written = file.stat().st_mtime_ns
    show_first_pictures(new)  # of a demo that goes on
    assert capsys.readouterr().out == f"{line}\n"
    assert file.stat().st_mtime_ns == written
    show_first_pictures(settings)  # which has champions
    assert capsys.readouterr().out == ""
