"""A decoder of pictures without captions, and a prior of other data with the same CLIP encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from corgi_core.decoders.registry import load_decoder
from corgi_core.prior.model import PriorModel
from tests.helpers.tiny_corgi import Corgi, corgi_in
from tests.helpers.tiny_pipeline import png, tiny_pipeline


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and the prior and CLIP of other data."""
    home = tmp_path_factory.mktemp("other")
    (home / "pictures").mkdir()
    for number in range(40):
        (home / "pictures" / f"{number}.png").write_bytes(png(number))
    parts = tiny_pipeline()
    parts.clip.save(home / "their" / "clip_encoder")
    parts.prior.save(home / "their" / "prior")
    return home


@pytest.fixture(scope="module")
def corgi(home: Path) -> Corgi:
    """With a decoder that is trained in the demo, on pictures that nobody has described."""
    corgi = corgi_in(home, CORGI_CLIP="their/clip_encoder", CORGI_DATASET="mine")
    done = corgi("ingest", "pictures", "--format", "imagefolder", "--name", "mine")
    assert done.returncode == 0, done.stderr
    done = corgi("run", "--dataset", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a decoder was trained, and no prior" in done.stdout
    assert "--prior FOLDER" in done.stdout
    return corgi


def test_their_prior_generates_with_our_decoder(home: Path, corgi: Corgi) -> None:
    done = corgi("generate", "a cat", "--dataset", "mine", "--prior", "./their/prior")
    assert done.returncode == 0, done.stderr
    made = json.loads(Image.open(home / "picture.png").text["corgi"])
    storage = home / ".corgi" / "emoji-small.mine" / "storage"
    assert made["decoder"] == load_decoder(storage / "decoder" / "pca").digest
    assert made["prior"] == PriorModel.load(home / "their" / "prior").digest
    assert not (storage / "prior").exists()


@pytest.mark.parametrize(
    ("what", "problem"),
    [("encoder", "different CLIP encoders"), ("text_encoder", "tokens of the text encoder other")],
)
def test_a_prior_that_does_not_fit_is_refused(
    home: Path, corgi: Corgi, tmp_path: Path, what: str, problem: str
) -> None:
    prior = PriorModel.load(home / "their" / "prior")
    prior.encoders[what] = "other"
    prior.save(tmp_path / "prior")
    done = corgi("generate", "a cat", "--dataset", "mine", "--prior", f"{tmp_path}/prior")
    assert done.returncode == 2
    assert problem in " ".join(done.stderr.split())


def test_without_a_prior_the_message_says_what_is_missing(corgi: Corgi) -> None:
    done = corgi("generate", "a cat", "--dataset", "mine")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "nothing is registered" in said
    assert "emoji-small.mine" in said
    assert "--prior FOLDER" in said
