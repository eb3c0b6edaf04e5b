"""`corgi compare`: every kind of decoder, with captions and without, in tables and the registry.

The decoders have three sizes of images; the workspace stores pixels at the largest.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
import torch
from PIL import Image

from corgi_core.config import preset_named
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.subsets import CaptionSubset
from corgi_core.decoders.registry import load_decoder
from corgi_core.evaluation.report import CONTRASTIVE_PRIOR, LINEAR_PRIOR
from tests.helpers.tiny_corgi import SMALL_PRESET, Corgi, corgi_in, materialise_in
from tests.helpers.tiny_diffusion import save_pipeline, tiny_scheduler, tiny_unet, tiny_vae

SIZES = {"pca": 32, "cascade": 64, "gan": 32, "lafite": 32, "stable_diffusion": 24}
KINDS = [*(settings.kind for settings in preset_named("emoji-small").decoders), "stable_diffusion"]
PRESET = (
    SMALL_PRESET.replace(
        "  cascade: {num_steps: 2, training: *short}\n",
        """\
  cascade:
    image_size: 64
    num_steps: 2
    stages:
      - {size: 16, channels: [8, 16], layers: 1, attention_levels: 1, noise_shift: -1.0}
      - {size: 64, channels: [8, 8, 16], layers: 1, attention_levels: 0, noise_shift: -1.0}
    training: *short
  stable_diffusion:
    pretrained: ./pipeline
    image_size: 24
    num_steps: 2
    training: {<<: *short, learning_rate: 0.001}
""",
    )
    + "caption_subsets: [0%, 10%, 100%]\n"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("compared")
    save_pipeline(home / "pipeline", tiny_vae(), tiny_unet(), tiny_scheduler())
    return home


@pytest.fixture(scope="module")
def corgi(home: Path) -> Corgi:
    return corgi_in(home, PRESET)


@pytest.fixture(scope="module")
def state(home: Path, corgi: Corgi) -> Path:
    done = corgi("compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Language-free" in done.stdout
    assert "Supervision" in done.stdout
    return home / ".corgi" / "emoji-small"


def test_every_decoder_meets_every_embedding(state: Path) -> None:
    report = json.loads((state / "reports" / "comparison" / "measurements.json").read_text())
    rows = [row for row in report["images"] if row["decoder"] != "real images"]
    cases = {(r["comparison"], r["decoder"], r["source"], r["captions"], r["seed"]) for r in rows}
    assert len(cases) == len(rows)
    with_prior = [kind for kind in KINDS if kind != "lafite"]
    priors = [(v, s) for v in ("baseline", "shifted-k1") for s in ("10%", "100%")]
    linear = (LINEAR_PRIOR, CONTRASTIVE_PRIOR)
    assert cases == {
        (comparison, kind, source, captions, 1)
        for comparison, sources in (
            ("supervision", priors),
            ("language-free", [("baseline", "0%"), ("shifted-k1", "0%")]),
        )
        for kind, source, captions in [
            *((kind, "real", "none") for kind in KINDS),
            *(
                (kind, source + control, captions)
                for control in ("", ", shuffled captions")
                for kind, source, captions in [
                    *((kind, *prior) for kind in with_prior for prior in sources),
                    *((kind, "text", "none") for kind in KINDS),
                    *((kind, name, "none") for kind in with_prior for name in linear),
                ]
            ),
        ]
    }
    for name in ("supervision", "language_free"):
        assert (state / "reports" / "comparison" / f"{name}_grid.png").exists()
        assert (state / "reports" / "comparison" / "tables" / f"{name}.md").exists()


def test_decoders_of_three_sizes_learn_from_the_pixels_of_the_largest(state: Path) -> None:
    assert ArrayStore.load(state / "storage" / "pixels").spec["size"] == 64
    for kind, size in SIZES.items():
        decoder = load_decoder(state / "storage" / "decoder" / kind)
        z = torch.randn(2, decoder.width)
        assert decoder.decode(z, num_steps=1).shape == (2, 3, size, size)


def test_a_language_free_prior_saw_no_caption_of_the_source(home: Path, state: Path) -> None:
    images = Dataset.load(home / "data" / "emoji-small" / "images")
    subset = CaptionSubset.load(state / "storage" / "caption_subset" / "0%")
    assert len(subset) > 0
    found: set[str] = set()
    for shard in images.shards:
        keys = images.rows(shard, "key")["key"].to_numpy(dtype=str)
        found.update(keys[subset.of(images).among(shard, keys)].tolist())
    assert found == set(images.keys("train", "noto"))


def test_a_tuned_decoder_is_another_one(state: Path) -> None:
    for kind in KINDS:
        first = load_decoder(state / "storage" / "decoder" / kind)
        tuned = load_decoder(state / "storage" / "language_free_decoder" / kind)
        assert first.shape == tuned.shape
        assert first.digest != tuned.digest


def test_the_registry_knows_what_is_language_free(home: Path, state: Path) -> None:
    store = mlflow.MlflowClient(f"sqlite:///{home}/.corgi/mlflow/mlflow.db")
    for kind in KINDS:
        store.get_model_version_by_alias("emoji-small-decoder", f"{kind}-twemoji")
    prior = store.get_model_version_by_alias("emoji-small-prior", "language-free")
    assert prior.tags["caption_subset"] == "0%"


def test_pictures_are_generated_without_captions(home: Path, corgi: Corgi, state: Path) -> None:
    words = ("a red apple", "--prior", "language-free", "--decoder", "gan-twemoji")
    done = corgi("generate", *words, "-n", "2", "--out", "apple.png")
    assert done.returncode == 0, done.stderr
    made = json.loads(Image.open(home / "apple.png").text["corgi"])
    tuned = load_decoder(state / "storage" / "language_free_decoder" / "gan")
    assert made["decoder"] == tuned.digest


def test_a_decoder_that_reads_captions_is_made_by_name_registered_and_decodes(
    home: Path, corgi: Corgi, state: Path
) -> None:
    assert not (state / "storage" / "captioned_decoder").exists()
    done = materialise_in(home, PRESET)("captioned_decoder:10%", "registered_models")
    assert done.returncode == 0, done.stdout + done.stderr
    done = corgi("generate", "a red apple", "--decoder", "captions-10", "--out", "read.png")
    assert done.returncode == 0, done.stderr
    made = json.loads(Image.open(home / "read.png").text["corgi"])
    reading = load_decoder(state / "storage" / "captioned_decoder" / "10%")
    assert reading.reads_text
    assert made["decoder"] == reading.digest


def test_comparing_again_does_nothing(corgi: Corgi, state: Path) -> None:
    again = corgi("compare")
    assert again.returncode == 0, again.stderr
    assert "0 steps done" in again.stdout
