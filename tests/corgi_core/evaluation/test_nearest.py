"""The nearest training images, by faiss from shards on disk, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corgi_core.data import dataset
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.pixels import square
from corgi_core.encoders.embed import embed_images
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.errors import CorgiError
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.io.pictures import labelled_grid
from tests.helpers.tiny_pipeline import BLOCKS, SIDE, png, write_images


@pytest.fixture(scope="module")
def training(pipeline, tmp_path_factory):
    images = write_images(tmp_path_factory.mktemp("images"))
    folder = tmp_path_factory.mktemp("embeddings")
    return TrainingImages(images, embed_images(pipeline.clip, images, None, folder))


def test_the_nearest_are_those_of_brute_force_held_out_ones_left_out(training):
    z = torch.randn(6, sum(BLOCKS), generator=torch.Generator().manual_seed(0))
    found = training.nearest(z, 5)
    assert found.keys.shape == found.cosines.shape == (6, 5)
    store, train = training.embeddings, list(training.images.keys("train"))
    assert len(store.shards) == 3
    rows = torch.from_numpy(store.read("image")[store.rows_of(train)]).float()
    cosines = mean_encoder_cosine(z[:, None], rows[None], BLOCKS)
    best = cosines.sort(dim=1, descending=True)
    torch.testing.assert_close(torch.from_numpy(found.cosines), best.values[:, :5])
    assert found.keys.tolist() == [[train[i] for i in row] for row in best.indices[:, :5]]


def test_a_training_image_is_its_own_nearest_and_a_held_out_one_is_not(pipeline, training):
    z = torch.stack([pipeline.embed_image(png(number))[0] for number in (3, 4)])
    found = training.nearest(z, 1)
    assert found.keys[0, 0] == "key03"
    assert found.cosines[0, 0] > 0.999
    assert found.keys[1, 0] != "key04"


def test_pictures_are_read_alone_and_checked(training, monkeypatch):
    images = training.images
    whole = [pair for shard in images.shards for pair in images.images(shard)]
    wanted = {"key01", "key07", "key06"}
    monkeypatch.setattr(Dataset, "images", None)  # a pass over a tar
    some = [pair for shard in images.shards for pair in images.some_images(shard, wanted)]
    assert some == [pair for pair in whole if pair[0] in wanted]
    assert training.pictures(["key07", "key01"], SIDE).shape == (2, 3, SIDE, SIDE)
    monkeypatch.setattr(dataset, "read_ranges", lambda path, ranges: [b"other"] * len(ranges))
    with pytest.raises(CorgiError, match="other bytes than the one that was stored"):
        list(images.some_images("00000", ["key01"]))


def test_neighbours_stand_beside_their_pictures(pipeline, training):
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = training.nearest(pipeline.embed_image(pictures), 3)
    captions, columns = training.beside(pictures, found)
    assert list(columns) == ["generated", "nearest 1", "nearest 2", "nearest 3"]
    for row, caption in enumerate(captions):
        for rank, key in enumerate(found.keys[row].tolist(), start=1):
            number = int(key.removeprefix("key"))
            pixels = (columns[f"nearest {rank}"][row] * 255).round().numpy().astype(np.uint8)
            np.testing.assert_array_equal(pixels, square(png(number), SIDE))
            assert (f"picture number {number}" if number % 3 else key) in caption
    assert labelled_grid(captions, columns).height > 2 * SIDE


def test_no_more_than_there_are_and_only_of_the_same_width(training):
    z = torch.randn(1, sum(BLOCKS))
    for count in (0, 9, 10**6):
        with pytest.raises(CorgiError, match="ask for 1 to 8"):
            training.nearest(z, count)
    with pytest.raises(CorgiError, match="wide"):
        training.nearest(z[:, 1:], 1)


def test_embeddings_of_other_encoders_are_refused(training):
    with pytest.raises(CorgiError, match="another-clip"):
        ArrayStore.load(training.embeddings.folder, expect={"encoder": "another-clip"})
