"""Protocols: what names them, what they are called, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from corgi_core.errors import CorgiError
from corgi_core.evaluation.protocol import ANY, NAMED, Protocol
from tests.helpers.protocols import a_protocol

OTHER = {
    "dataset": "another", "data_version": "other", "held_out_captions": 10, "prior_steps": 8,
    "prior_sampler": "ddpm", "prior_guidance": 2.0, "seed": 1, "encoders": ("b",), "clip": "other",
    "is_zero_shot": True, "captions": "each image's last", "near_cosine": 0.8, "near_bits": 4,
    "near_hash_cosine": 0.7, "near_images": 3, "decoded_images": 5, "decoder_steps": 2,
    "decoder_guidance": 3.0, "image_size": 64, "framing": "stretch", "inception": "i",
    "dinov2": "d", "split": "train", "left_out": 7,
    "captions_file": "b.json", "version": 99,
}  # fmt: skip
WHOLE = a_protocol(
    near_cosine=0.9, near_bits=8, near_hash_cosine=0.8, near_images=2, decoded_images=6,
    decoder_steps=9, decoder_guidance=1.0, image_size=32, framing="letterbox", inception="x",
    dinov2="y", split="validation", left_out=5, captions_file="a.json",
)  # fmt: skip


@pytest.mark.parametrize("name", [each.name for each in fields(Protocol)])
def test_a_field_that_differs_is_named_and_changes_the_digest(name: str) -> None:
    other = replace(WHOLE, **{name: OTHER[name]})
    assert other.digest != WHOLE.digest
    with pytest.raises(CorgiError, match=f"different protocols: {name} is") as refused:
        WHOLE.check_comparable(other)
    assert str(OTHER[name]) in str(refused.value)
    WHOLE.check_comparable(replace(other, **{name: getattr(WHOLE, name)}))


def test_an_evaluation_without_pictures_may_be_compared_with_one_that_has_some() -> None:
    without = a_protocol(split=WHOLE.split, left_out=WHOLE.left_out)
    WHOLE.check_comparable(without)
    without.check_comparable(WHOLE)


@pytest.mark.parametrize("name", ["split", "left_out"])
def test_where_none_is_a_value_it_differs_from_others(name: str) -> None:
    """The test split is not the validation split, and none left out is not seven."""
    other = replace(WHOLE, **{name: None})
    for one, two in ((WHOLE, other), (other, WHOLE)):
        with pytest.raises(CorgiError, match=f"different protocols: {name} is"):
            one.check_comparable(two)


def test_scores_of_priors_alone_depend_on_no_decoder_and_no_judge() -> None:
    other = replace(WHOLE, decoder_steps=50, image_size=256, inception="another")
    assert WHOLE.without_pictures == other.without_pictures
    assert WHOLE.without_pictures.near_cosine == WHOLE.near_cosine
    assert "pictures" not in WHOLE.without_pictures.line


def test_what_is_stored_is_read_as_it_was_and_an_older_one_is_refused() -> None:
    stored = json.loads(json.dumps(WHOLE.stored)) | {"zero_shot": {"dataset": "mine"}}
    assert Protocol.stored_in({"protocol": stored}) == WHOLE
    assert "decoded_images" not in a_protocol().stored
    with pytest.raises(CorgiError, match="older version"):
        Protocol.stored_in({"protocol": {"prior_steps": 4}})


@pytest.mark.parametrize("name", NAMED)
def test_who_meets_every_demand_of_a_named_protocol_bears_its_name(name: str) -> None:
    demands = NAMED[name]
    some = {"inception": "a digest", "decoded_images": 7}
    met = a_protocol(**{k: some[k] if v is ANY else v for k, v in demands.items()})
    assert met.name == name
    assert not met.missing(name)
    assert met.line.startswith(f"Protocol {name} ({met.digest[:8]})")
    for field, wanted in demands.items():
        other = not wanted if isinstance(wanted, bool) else OTHER[field]
        lacking = replace(met, **{field: None if wanted is ANY else other})
        assert lacking.missing(name) == {field: wanted}
        assert lacking.name != name


def test_any_data_of_an_encoder_are_not_flickr8k() -> None:
    of = {"encoders": ("clip_vit_b_16",), "is_zero_shot": False}
    assert a_protocol(dataset="flickr8k", **of).name == "flickr8k-embeddings"
    assert a_protocol(dataset="mine", **of).name is None


def test_the_line_says_what_was_measured_and_who_judged() -> None:
    assert a_protocol().name is None
    assert a_protocol(prior_guidance=1.5, held_out_captions=1234).line == (
        f"Protocol unnamed ({a_protocol(prior_guidance=1.5, held_out_captions=1234).digest[:8]}): "
        "1,234 captions of made (01234567), each image's first; 4 ddim steps, guidance 1.5, seed 0"
    )
    assert "judged by CLIP fedcba98 (the models are conditioned on it) and Inception x" in (
        WHOLE.line
    )


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(CorgiError, match="no protocol 'coco'") as refused:
        a_protocol().missing("coco")
    assert "coco-fid-30k" in refused.value.remedy
