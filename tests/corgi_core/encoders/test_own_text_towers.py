"""Precomputed embeddings that name their encoder are read with that encoder's own text tower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from upath import UPath

from corgi_core.config import DataSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.ingest import ingest
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.clip_text import ClipTextTower
from corgi_core.encoders.embed import embed_precomputed, embed_texts
from corgi_core.encoders.own_text_towers import own_names, own_text_towers
from corgi_core.encoders.tokens import TokenEncoder
from corgi_core.errors import CorgiError
from tests.helpers.tiny_vit import tiny_vit
from tests.helpers.vectors_on_disk import rows

CAPTIONS = {record["key"]: record["captions"][0] for record in rows(copies=1)}
TRAINED, FITTED = ("trained",), ("fitted",)


def embedded(clip: ClipEnsemble, name: str, folder: Path) -> tuple[Dataset, ArrayStore]:
    """A dataset whose image embeddings are near what the encoder makes of the captions."""
    z = clip.encode_texts(list(CAPTIONS.values())).numpy()
    z = z + 0.05 * np.random.default_rng(0).standard_normal(z.shape)
    table = {
        "key": list(CAPTIONS), "captions": list(CAPTIONS.values()),
        "split": ["train"] * len(CAPTIONS),
        name: pa.array([row.astype(np.float16) for row in z], pa.list_(pa.float16())),
    }  # fmt: skip
    folder.mkdir(parents=True)
    pq.write_table(pa.table(table), folder / "made.parquet")
    settings = DataSettings(source="embeddings")
    images = ingest(
        "embeddings", str(folder / "made.parquet"), UPath(folder / "images"), settings, seed=0
    )
    return images, embed_precomputed(images, folder / "embeddings")


@pytest.fixture(scope="module")
def named(vit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, ArrayStore]:
    """Embeddings that name the folder of the encoder that they came from."""
    clip = ClipEnsemble.load((str(vit_folder),))
    return embedded(clip, str(vit_folder), tmp_path_factory.mktemp("named") / "data")


def test_no_array_is_read_whole(
    named: tuple[Dataset, ArrayStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, store = named
    for whole in ("read", "keys", "rows_of"):
        monkeypatch.setattr(ArrayStore, whole, None)
    assert own_text_towers(tuple(store.spec["names"]), store, images).card["agreement"] > 0.9


def test_names_are_of_hub_folder_or_architecture_and_weights(vit_folder: Path) -> None:
    known = ["ViT-B-32/openai", "ViT-B-32:openai", "hf-hub:someone/clip", str(vit_folder)]
    expected = ("ViT-B-32/openai", "ViT-B-32/openai", "hf-hub:someone/clip", str(vit_folder))
    assert own_names(TRAINED, known) == expected
    for unknown in ("clip", "ViT-B-32", "ViT-B-32/nobody", "/no/such/folder"):
        assert own_names(TRAINED, [*known, unknown]) is None
    assert own_names(FITTED, known) is None
    assert own_names(("ViT-B-16/openai",), ["clip"]) == ("ViT-B-16/openai",)


def test_the_own_tower_reads_captions_in_the_space_of_the_embeddings(
    named: tuple[Dataset, ArrayStore], vit_folder: Path, tmp_path: Path
) -> None:
    images, embeddings = named
    names = own_names(TRAINED, embeddings.spec["names"])
    assert names == (str(vit_folder),)
    clip = own_text_towers(names, embeddings, images)
    assert clip.card["agreement"] > 0.9
    tower = ClipEnsemble.load((str(vit_folder),))
    texts = list(CAPTIONS.values())
    torch.testing.assert_close(clip.encode_texts(texts), tower.encode_texts(texts))
    clip.save(tmp_path / "clip")
    saved = ClipEnsemble.load(tmp_path / "clip")
    assert saved.space == embeddings.spec["encoder"]
    found = embed_texts(saved, TokenEncoder.load("minilm", 8), images, tmp_path / "texts").spec
    shared = ("encoder", "names", "encoder_dims", "width")
    assert {key: found[key] for key in shared} == {key: embeddings.spec[key] for key in shared}
    assert found["text_tower"] == clip.digest  # another encoder's texts are another input
    text_alone = ClipTextTower.load(tmp_path / "clip")
    torch.testing.assert_close(text_alone.encode_texts(texts), clip.encode_texts(texts))


def test_an_encoder_that_did_not_make_the_embeddings_is_refused(
    named: tuple[Dataset, ArrayStore], tmp_path: Path
) -> None:
    images, embeddings = named
    torch.manual_seed(7)
    ClipEnsemble([tiny_vit("other", 48, layers=2, context_length=16)]).save(tmp_path / "other")
    ClipEnsemble([tiny_vit("small", 40, layers=1, context_length=16)]).save(tmp_path / "small")
    with pytest.raises(CorgiError, match="did not make them") as info:
        own_text_towers((str(tmp_path / "other"),), embeddings, images)
    assert "clip=[fitted]" in info.value.remedy
    with pytest.raises(CorgiError, match="of width 40, those of the data are 48 wide"):
        own_text_towers((str(tmp_path / "small"),), embeddings, images)


def test_weights_out_of_reach_have_two_remedies(
    named: tuple[Dataset, ArrayStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that open_clip knows, of weights that are not on this machine."""
    images, embeddings = named
    entry = {"local": {"url": "", "hf_hub": "", "file": "/no/such/weights.safetensors"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32", entry)
    assert own_names(TRAINED, ["ViT-B-32/local"]) == ("ViT-B-32/local",)
    with pytest.raises(CorgiError, match="text tower is not at hand") as info:
        own_text_towers(("ViT-B-32/local",), embeddings, images)
    assert "clip=[FOLDER]" in info.value.remedy
    assert "clip=[fitted]" in info.value.remedy
