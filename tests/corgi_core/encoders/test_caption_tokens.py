"""Tokens that are made while training are those that would have been stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corgi_core.data.arrays import ArrayStore, compute_missing
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.shards import Sample
from corgi_core.decoders.cascade.captions import ImageCaptions
from corgi_core.encoders.caption_tokens import CaptionTokens, stored_texts, texts_of
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import embed_texts
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.task import PriorTask
from corgi_core.training.loop import train
from corgi_core.training.randomness import StepRandom
from corgi_core.training.rows import ChosenRows
from tests.helpers.losses import loss_of
from tests.helpers.tiny_prior import SETTINGS
from tests.helpers.whole import manifest_of

MAX_TOKENS, IMAGES = 12, 24
TEXTS = ["", "a red apple 🍎", "é", "woman astronaut: medium skin tone, " * 9]


@pytest.fixture(scope="module")
def minilm() -> TokenEncoder:
    return TokenEncoder.load("minilm", MAX_TOKENS)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two shards; every third image has two captions, and one has none."""
    samples = [
        Sample(
            f"{n:03}", b"picture",
            None if n == 4 else ["very " * (n % 5) + f"large, {n}", "another"][: 1 + (n % 3 == 0)],
            "validation" if n % 4 == 1 else "train", "made", f"{n}", "png",
        )
        for n in range(IMAGES)
    ]  # fmt: skip
    return write_dataset(tmp_path_factory.mktemp("data") / "set", samples, shard_size=14)


@pytest.fixture(scope="module")
def stores(
    captioned: Dataset, minilm: TokenEncoder, untrained: ClipEnsemble,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, ArrayStore]:  # fmt: skip
    folder = tmp_path_factory.mktemp("texts")
    return {
        features: embed_texts(untrained, minilm, captioned, folder / features, features)
        for features in ("cached", "online")
    }


@pytest.fixture
def tasks(
    captioned: Dataset, stores: dict[str, ArrayStore], tmp_path: Path
) -> dict[str, PriorTask]:
    texts = stores["cached"]
    width = texts.spec["width"]
    about = {name: texts.spec[name] for name in ("encoder", "encoder_dims", "width")}

    def embedded(shard: str) -> dict[str, np.ndarray]:
        keys = captioned.rows(shard, "key")["key"].to_numpy(dtype=str)
        z = np.random.default_rng(len(keys)).standard_normal((len(keys), width))
        return {"keys": keys, "image": z.astype(np.float16)}

    images = compute_missing(tmp_path / "images", captioned, about, embedded, "images")
    bank = GaussianBank.standard(about["encoder_dims"])
    return {
        features: PriorTask(
            SETTINGS,
            images,
            store,
            SplitKeys(captioned, "train"),
            SplitKeys(captioned, "validation"),
            bank,
        )
        for features, store in stores.items()
    }


def test_captions_are_stored_as_they_are() -> None:
    assert texts_of(stored_texts(TEXTS)) == TEXTS
    assert texts_of(stored_texts([])) == []
    assert texts_of(stored_texts(TEXTS).take(np.array([2, 0]))) == ["é", ""]


def test_an_online_store_has_the_captions_and_no_tokens(
    captioned: Dataset, stores: dict[str, ArrayStore], minilm: TokenEncoder
) -> None:
    online, cached = stores["online"], stores["cached"]
    expected = [text for texts in manifest_of(captioned)["captions"] for text in texts or []]
    assert texts_of(online.read_ragged("captions")) == expected
    np.testing.assert_array_equal(online.read("text"), cached.read("text"))
    assert online.keys.tolist() == cached.keys.tolist()
    with pytest.raises(CorgiError, match="no array 'tokens'"):
        online.read_ragged("tokens")
    assert online.digest != cached.digest
    assert online.spec["text_encoder"] == cached.spec["text_encoder"] == minilm.digest


def test_batches_have_the_stored_tokens_and_none_for_no_caption(
    stores: dict[str, ArrayStore],
) -> None:
    rows = np.array([5, 0, 11, 3])
    found = {}
    for features, store in stores.items():
        reader = CaptionTokens(store)
        stored = store.read_ragged(reader.array).take(rows)
        stored = type(stored).of_lengths(stored.values, np.insert(stored.lengths, 2, 0))
        found[features] = reader.tokens_of(reader.batch(stored))
        held = reader.ragged(store.read_ragged(reader.array).take(rows))
        assert held.values.dtype == np.float16
        found[f"{features} in memory"] = (
            torch.from_numpy(held.values),
            torch.from_numpy(held.offsets),
        )
    tokens, mask = found["online"]
    torch.testing.assert_close(tokens, found["cached"][0], atol=2e-3, rtol=2e-3)
    assert torch.equal(mask, found["cached"][1])
    assert not mask[2].any()
    assert not tokens[2].any()
    for ours, theirs in zip(found["online in memory"], found["cached in memory"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=4e-3, rtol=2e-3)


def test_a_step_has_the_loss_and_the_gradient_of_stored_tokens(
    tasks: dict[str, PriorTask],
) -> None:
    losses, gradients = [], []
    for task in tasks.values():
        torch.manual_seed(0)
        network = task.build()
        loss = loss_of(task, network, torch.arange(16), StepRandom(0, 0, 16))["loss"]
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*losses, atol=0, rtol=1e-4)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 2e-3


def test_a_short_training_ends_near_that_on_stored_tokens(
    tasks: dict[str, PriorTask], tmp_path: Path
) -> None:
    ends = [
        train(task, SETTINGS.training, tmp_path / features).metrics
        for features, task in tasks.items()
    ]
    assert ends[0]["loss"] == pytest.approx(ends[1]["loss"], rel=2e-3)
    assert ends[0]["held_out_cosine"] == pytest.approx(ends[1]["held_out_cosine"], abs=2e-3)


def test_images_have_the_tokens_of_one_of_their_captions_or_none(
    captioned: Dataset, stores: dict[str, ArrayStore], tasks: dict[str, PriorTask]
) -> None:
    """As a cascade reads them: image 4 has no caption."""
    images = ChosenRows(tasks["cached"].images, SplitKeys(captioned, "train"))
    keys = np.concatenate([images.shard_keys(shard) for shard in range(2)]).tolist()
    chosen, uniform = torch.arange(len(keys)), torch.linspace(0, 0.99, len(keys))
    found = []
    for store in stores.values():
        reader = CaptionTokens(store)
        captions = ImageCaptions(images, store, SplitKeys(captioned, "train"), reader.array)
        found.append(reader.tokens_of(reader.batch(captions.sample(chosen, uniform))))
    (tokens, mask), (online, online_mask) = found
    torch.testing.assert_close(online, tokens, atol=2e-3, rtol=2e-3)
    assert torch.equal(online_mask, mask)
    assert (~mask.any(dim=1)).nonzero().flatten().tolist() == [keys.index("004")]


def test_held_out_captions_have_tokens_whatever_the_store(
    captioned: Dataset, tasks: dict[str, PriorTask]
) -> None:
    chosen = HeldOut.of(captioned, 100, split="validation")
    rows = np.arange(len(chosen))
    read = [chosen.read(rows, task.images, task.texts) for task in tasks.values()]
    (some, mask, text, _), (others, other_mask, other_text, _) = (
        each.batch(torch.arange(len(each))) for each in read
    )
    torch.testing.assert_close(some, others, atol=4e-3, rtol=2e-3)
    assert torch.equal(mask, other_mask)
    assert torch.equal(text, other_text)


def test_an_encoder_that_is_absent_or_another_is_explained(
    tasks: dict[str, PriorTask], tmp_path: Path
) -> None:
    online = tasks["online"]
    for about, problem in (
        (
            {"text_encoder_name": str(tmp_path / "absent")},
            "text_features: online.*cannot be loaded",
        ),
        ({"text_encoder": "another"}, "other weights here"),
    ):
        texts = ArrayStore(online.texts.folder)
        texts._index["spec"] |= about
        with pytest.raises(CorgiError, match=problem):
            train(replace(online, texts=texts), SETTINGS.training, tmp_path / "run")
    assert not list((tmp_path / "run").glob("step*"))
