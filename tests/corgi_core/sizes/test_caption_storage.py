"""What captions cost on the disk, as stores really have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corgi_core.config import preset_named
from corgi_core.data.dataset import write_dataset
from corgi_core.encoders.caption_tokens import stored_texts
from corgi_core.encoders.tokens import TokenEncoder, ragged
from corgi_core.sizes import caption_storage
from tests.helpers.made import sample
from tests.helpers.whole import manifest_of

PRESET = preset_named("emoji")
CAPTIONS = ["a dog", "a dog that runs on the beach, and barks", "one " * 40]


def test_of_a_dataset_it_is_what_its_captions_need(tmp_path: Path) -> None:
    samples = [sample(f"{n:03}", captions=[CAPTIONS[n % 3]] * (1 + n % 2)) for n in range(30)]
    images = write_dataset(tmp_path / "images", samples, shard_size=12)
    captions = [caption for captions in manifest_of(images)["captions"] for caption in captions]
    encoder = TokenEncoder.load("minilm", PRESET.encoders.text_tokens)
    tokens = ragged(*encoder.encode(captions))
    for features, stored in (
        ("cached", tokens.values.astype(np.float16).nbytes),
        ("online", stored_texts(captions).values.nbytes),
    ):
        found = caption_storage(replace(PRESET, text_features=features), images)
        assert found is not None
        assert (found.captions, found.sample) == (45, 45)
        assert found.tokens == pytest.approx(tokens.lengths.mean())
        assert found.each * 45 == pytest.approx(stored + 8 * 45)


def test_without_a_dataset_captions_are_like_coco_s() -> None:
    found = caption_storage(preset_named("coco"))  # T5-base: tokens of width 768
    assert found is not None
    assert found.cached == pytest.approx(14.3 * 768 * 2 + 8)
    assert found.each == found.cached
    paper = caption_storage(preset_named("paper"))
    assert paper is not None
    assert paper.each == paper.online < 100 < paper.cached
    short = replace(PRESET, encoders=replace(PRESET.encoders, text_tokens=4))
    few = caption_storage(short)
    assert few is not None
    assert few.tokens == 4
