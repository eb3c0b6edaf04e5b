"""Embedding a dataset, shard by shard, and going on where it was left."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corgi_core.config import DataSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, write_dataset
from corgi_core.data.ingest import ingest
from corgi_core.data.pixels import pixels, square
from corgi_core.data.quality import gate
from corgi_core.encoders import embed
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.embed import (
    ImageEmbedding,
    TextEmbedding,
    embed_images,
    embed_precomputed,
    embed_texts,
)
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json, write_json
from tests.helpers.made import encoded, sample
from tests.helpers.vectors_on_disk import rows, write_parquet
from tests.helpers.whole import manifest_of


@pytest.fixture(scope="module")
def tokens() -> TokenEncoder:
    return TokenEncoder.load("minilm", 12)


def test_every_image_has_its_embedding(
    untrained: ClipEnsemble, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    store = embed_images(untrained, squares, square_pixels, tmp_path / "images")
    assert sorted(store.keys) == sorted(manifest_of(squares)["key"])
    row = store.rows_of(["blue-left-15"])
    pixels = torch.from_numpy(square_pixels.read("pixels")[square_pixels.rows_of(["blue-left-15"])])
    np.testing.assert_allclose(
        store.read("image")[row], untrained.encode_images(pixels).numpy(), atol=5e-3
    )
    assert store.read("image").dtype == np.float16
    assert store.spec["encoder"] == untrained.digest
    assert (store.spec["encoder_dims"], store.spec["width"]) == ([32], 32)


def test_images_themselves_are_read_where_pixels_are_too_small_or_absent(
    untrained: ClipEnsemble, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    exact = embed_images(untrained, squares, square_pixels, tmp_path / "exact").read("image")
    small = pixels(squares, tmp_path / "small", 16)
    for number, source in enumerate((None, small)):
        store = embed_images(untrained, squares, source, tmp_path / str(number))
        np.testing.assert_array_equal(store.read("image"), exact)


def test_images_are_framed_as_their_pixels_are(untrained: ClipEnsemble, tmp_path: Path) -> None:
    wide = Image.linear_gradient("L").resize((90, 40)).convert("RGB")
    images = write_dataset(tmp_path / "images", [sample("wide", encoded(wide))], shard_size=1)
    found = {}
    for framing in ("letterbox", "crop"):
        expected = torch.from_numpy(square(encoded(wide), untrained.image_size, framing).copy())
        for size in (untrained.image_size, 16):  # stored pixels are read, or the images themselves
            squares = pixels(images, tmp_path / f"pixels-{framing}-{size}", size, framing)
            folder = tmp_path / f"embeddings-{framing}-{size}"
            store = embed_images(untrained, images, squares, folder)
            assert store.spec["framing"] == framing
            np.testing.assert_array_equal(
                store.read("image"), untrained.encode_images(expected[None]).half().numpy()
            )
        found[framing] = store.read("image")
    assert (found["letterbox"] != found["crop"]).any()


def test_only_missing_shards_are_computed(
    untrained: ClipEnsemble, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    whole = embed_images(untrained, squares, square_pixels, tmp_path / "images")
    assert whole.recomputed == len(squares.shards) == 3
    (tmp_path / "images" / "00001.safetensors").write_bytes(b"torn")
    again = embed_images(untrained, squares, square_pixels, tmp_path / "images")
    assert (again.recomputed, again.digest) == (1, whole.digest)


def test_embeddings_depend_on_no_number_of_threads(
    vit_folder: Path, squares: Dataset, tokens: TokenEncoder, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(embed, "_CPU_BATCH", 4)
    monkeypatch.setattr(embed, "_TEXT_BATCH", 4)
    clip = ClipEnsemble.load((str(vit_folder),))
    before, digests = torch.get_num_threads(), set()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            image = embed_images(clip, squares, None, tmp_path / f"images-{threads}")
            text = embed_texts(clip, tokens, squares, tmp_path / f"texts-{threads}")
            digests.add((image.digest, text.digest))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_jobs_of_named_encoders_are_what_the_encoders_themselves_give(
    vit_folder: Path, squares: Dataset, square_pixels: ArrayStore, tokens: TokenEncoder,
    tmp_path: Path,
) -> None:  # fmt: skip
    clip = ClipEnsemble.load((str(vit_folder),))
    image = ImageEmbedding(squares, square_pixels, (str(vit_folder),))
    text = TextEmbedding(squares, (str(vit_folder),), "minilm", 12)
    for job, store in (
        (image, embed_images(clip, squares, square_pixels, tmp_path / "image")),
        (text, embed_texts(clip, tokens, squares, tmp_path / "text")),
    ):
        assert job.run(tmp_path / "again" / job.what, "cpu", 2).digest == store.digest
        assert len(pickle.dumps(job)) < 1500  # without the encoders that it has loaded
    assert ImageEmbedding(squares, square_pixels, vit_folder).folders == [
        squares.folder, square_pixels.folder, vit_folder,
    ]  # fmt: skip


def test_every_caption_has_a_row_and_images_without_one_have_none(
    untrained: ClipEnsemble, squares: Dataset, tokens: TokenEncoder, tmp_path: Path
) -> None:
    store = embed_texts(untrained, tokens, squares, tmp_path / "texts")
    assert "without-caption" not in set(store.keys)
    assert len(store) == 48
    row = store.rows_of(["green-top-05"])
    vectors, mask = tokens.encode(["a green square on the top"])
    stored = store.read_ragged("tokens").take(row)
    assert stored.lengths.tolist() == [int(mask.sum())]
    assert stored.values.dtype == np.float16
    np.testing.assert_allclose(stored.values, vectors[0].numpy(), atol=5e-3)
    expected = untrained.encode_texts(["a green square on the top"]).numpy()
    np.testing.assert_allclose(store.read("text")[row], expected, atol=5e-3)
    spec = store.spec
    assert (spec["text_encoder"], spec["text_width"], spec["text_tokens"]) == (
        tokens.digest, 384, 12,
    )  # fmt: skip


def test_another_encoder_is_refused_by_the_reader(
    untrained: ClipEnsemble, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    embed_images(untrained, squares, square_pixels, tmp_path / "images")
    with pytest.raises(CorgiError, match="encoder"):
        ArrayStore.load(tmp_path / "images", expect={"encoder": "another"})
    with pytest.raises(CorgiError, match="width"):
        ArrayStore.load(tmp_path / "images", expect={"width": 33})


def test_embeddings_that_are_not_finite_are_not_stored(
    vit_folder: Path, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    broken = ClipEnsemble.load([str(vit_folder)])
    broken.encoders[0].model.visual.conv1.weight.data.fill_(torch.nan)
    with pytest.raises(CorgiError, match="not finite"):
        embed_images(broken, squares, square_pixels, tmp_path / "images")
    assert not (tmp_path / "images" / "index.json").exists()


@pytest.mark.parametrize(
    ("largest", "problem"),
    [(1e5, r"text encoder 'minilm' made a value of 1e.05, .* largest number is 65504"),
     (float("nan"), "not finite")],
)  # fmt: skip
def test_tokens_that_float16_cannot_hold_are_not_stored(
    largest: float, problem: str, untrained: ClipEnsemble, squares: Dataset, tmp_path: Path
) -> None:
    tokens = TokenEncoder.load("minilm", 12)
    last = tokens.model.encoder.layer[-1].output.LayerNorm
    last.bias.data[0] = largest  # what the last layer adds to every token
    with pytest.raises(CorgiError, match=problem):
        embed_texts(untrained, tokens, squares, tmp_path / "texts")
    assert not (tmp_path / "texts" / "index.json").exists()


def test_arrays_of_another_version_are_refused_and_computed_again(
    untrained: ClipEnsemble, squares: Dataset, square_pixels: ArrayStore, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    store = embed_images(untrained, squares, square_pixels, folder)
    index = read_json(folder / "index.json")
    del index["format"]
    index["spec"]["blocks"] = index["spec"].pop("encoder_dims")
    write_json(folder / "index.json", index)
    with pytest.raises(CorgiError, match="another version of Corgi") as refused:
        ArrayStore.load(folder)
    assert "materialise them again" in refused.value.remedy
    again = embed_images(untrained, squares, square_pixels, folder)
    assert ArrayStore.load(folder).digest == again.digest == store.digest


def test_precomputed_embeddings_that_are_added_are_of_the_same_space(tmp_path: Path) -> None:
    """One new shard is computed, and what was trained on the others still fits."""
    data = DataSettings(shard_size=64)

    def stored(copies: int) -> tuple[int, int, dict[str, object]]:
        """Rows, shards that were computed, and the spec."""
        table = write_parquet(tmp_path / "clip.parquet", rows(copies))
        raw = ingest("embeddings", str(table), tmp_path / "raw", data, seed=0)
        images = gate(raw, tmp_path / "images", data)
        store = embed_precomputed(images, tmp_path / "embeddings")
        return len(store), store.recomputed, store.spec

    rows_before, computed, spec = stored(1)
    assert (rows_before, computed) == (64, 1)
    assert stored(2) == (128, 1, spec)
