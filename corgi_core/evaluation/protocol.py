"""How numbers were measured, as one object: scores of different protocols are never compared.

A protocol is stored with every evaluation and printed beside its numbers. Some have names, under
which others may report too; an evaluation bears a name where it meets all that the name demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Self

from corgi_core.data.splits import VALIDATION
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of

VERSION = 2  # of the rules that no field names; raised when evaluations measure otherwise
CAPTIONS = "each image's first"  # `caption_of`
OF_PICTURES = (
    "decoded_images", "decoder_steps", "decoder_guidance", "image_size", "framing", "inception",
    "dinov2",
)  # fmt: skip
MAY_LACK = (
    *OF_PICTURES, "prior_steps", "prior_sampler", "prior_guidance", "captions_file", "near_cosine",
    "near_bits", "near_hash_cosine", "near_images",
)  # fmt: skip
"""What an evaluation without pictures, priors, strata or a checked file does not have."""
VAL2014 = "captions_val2014.json"  # of MS-COCO, checked by `check_captions_file`
SHORT = 8  # characters of a digest that are printed


class _Any:
    """Stands for any value, where a named protocol demands only that there is one."""


ANY: Final = _Any()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that the scores of a model depend on, beside the model.

    Attributes:
        dataset: The test images' sources, such as "coco".
        data_version: The digest of the dataset.
        held_out_captions: On how many captions priors are scored.
        prior_steps: The priors' own number of sampling steps; None where there is no prior, like
            the two that follow.
        prior_sampler: Their sampler.
        prior_guidance: Their scale of classifier-free guidance.
        seed: Of sampling and decoding.
        encoders: The names of the CLIP encoders that embeddings are of.
        clip: The digest of these, on which the models are conditioned.
        is_zero_shot: Whether the models have learned from another dataset.
        split: Of the captions; None for the test split.
        captions: Which caption stands for an image.
        captions_file: The annotation file that the captions are of, where it was checked.
        left_out: How many held-out images do not count, as they are near others; None for none.
        near_cosine: As in `EvaluationSettings`, like the next two; None without strata.
        near_bits: See there.
        near_hash_cosine: See there.
        near_images: How many test images have a near neighbour in training.
        decoded_images: How many pictures are decoded; None without pictures, like all that follow.
        decoder_steps: The decoder's number of sampling steps; None where decoders with their own
            are compared.
        decoder_guidance: Its scale of guidance; None as above.
        image_size: Pixels to a side of the pictures, to which the real images are scaled.
        framing: How these were made square.
        inception: The digest of the Inception that judges; None where there is none.
        dinov2: The digest of the DINOv2 that judges.
        version: `VERSION`.
    """

    dataset: str
    data_version: str
    held_out_captions: int
    prior_steps: int | None = None
    prior_sampler: str | None = None
    prior_guidance: float | None = None
    seed: int
    encoders: tuple[str, ...]
    clip: str
    is_zero_shot: bool = False
    split: str | None = None
    captions: str = CAPTIONS
    captions_file: str | None = None
    left_out: int | None = None
    near_cosine: float | None = None
    near_bits: int | None = None
    near_hash_cosine: float | None = None
    near_images: int | None = None
    decoded_images: int | None = None
    decoder_steps: int | None = None
    decoder_guidance: float | None = None
    image_size: int | None = None
    framing: str | None = None
    inception: str | None = None
    dinov2: str | None = None
    version: int = VERSION

    @classmethod
    def stored_in(cls, metrics: Mapping[str, Any]) -> Self:
        """The protocol of an evaluation's metrics.

        Raises:
            CorgiError: it was written by another version of Corgi.
        """
        stored = metrics.get("protocol", {})
        known = {each.name for each in fields(cls)}
        try:
            found = cls(**{name: each for name, each in stored.items() if name in known})
        except TypeError as error:
            raise CorgiError(
                "the evaluation was written by an older version of Corgi: its protocol is not "
                "complete",
                "run `corgi run` again",
            ) from error
        return found._with_tuples()

    def _with_tuples(self) -> Self:
        return type(self)(**{**asdict(self), "encoders": tuple(self.encoders)})

    @property
    def stored(self) -> dict[str, Any]:
        """The fields that have a value, for `metrics.json`."""
        values = asdict(self) | {"encoders": list(self.encoders)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def without_pictures(self) -> Self:
        """What the scores of priors alone depend on, which no decoder and no judge changes."""
        nothing: dict[str, Any] = dict.fromkeys(OF_PICTURES)
        return replace(self, **nothing)

    def on_validation(self, count: int) -> Self:
        """That of the priors' scores on `count` validation captions, by which they are chosen."""
        return replace(
            self.without_pictures, split=VALIDATION, held_out_captions=count, near_cosine=None,
            near_bits=None, near_hash_cosine=None, near_images=None, captions_file=None,
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Names the protocol."""
        return digest_of(self.stored)

    @property
    def name(self) -> str | None:
        """The first of the `NAMED` protocols all of whose demands are met."""
        return next((name for name in NAMED if not self.missing(name)), None)

    def missing(self, name: str) -> dict[str, Any]:
        """What a named protocol demands and this one does not meet, by field.

        Raises:
            CorgiError: no protocol has that name.
        """
        if name not in NAMED:
            raise CorgiError(
                f"there is no protocol {name!r}", f"choose one of {', '.join(sorted(NAMED))}"
            )
        return {
            field: wanted
            for field, wanted in NAMED[name].items()
            if (getattr(self, field) is None if wanted is ANY else getattr(self, field) != wanted)
        }

    def check_comparable(self, other: Protocol) -> None:
        """Raise CorgiError, which names a field that differs, unless scores may be compared.

        A field of `MAY_LACK` that one of them does not have, as it decodes no pictures, is not
        compared. Of the others None is a value: the test split, or no image left out.
        """
        for each in fields(self):
            ours, theirs = getattr(self, each.name), getattr(other, each.name)
            lacking = each.name in MAY_LACK and None in (ours, theirs)
            if ours != theirs and not lacking:
                raise CorgiError(
                    f"the scores are of different protocols: {each.name} is {ours} in one and "
                    f"{theirs} in the other",
                    "evaluate both models on the same data with the same settings",
                )

    @property
    def line(self) -> str:
        """The protocol in a line, to be printed beside numbers."""
        name, shot = self.name or "unnamed", "zero-shot, " if self.is_zero_shot else ""
        sampled = (
            ""
            if self.prior_steps is None
            else (
                f"{self.prior_steps} {self.prior_sampler} steps, guidance {self.prior_guidance:g}, "
            )
        )
        decoded = "decoded" if self.decoder_steps is None else f"of {self.decoder_steps} steps"
        parts = [
            f"{self.held_out_captions:,} captions of {self.dataset} "
            f"({self.data_version[:SHORT]}), {self.captions}",
            f"{shot}{sampled}seed {self.seed}",
        ]
        if self.decoded_images is not None:
            judges = [f"CLIP {self.clip[:SHORT]} (the models are conditioned on it)"]
            for judge, digest in (("Inception", self.inception), ("DINOv2", self.dinov2)):
                judges += [f"{judge} {digest[:SHORT]}"] if digest else []
            parts.append(
                f"{self.decoded_images:,} pictures {decoded}, judged by {' and '.join(judges)}"
            )
        return f"Protocol {name} ({self.digest[:SHORT]}): {'; '.join(parts)}"


NAMED: Final[dict[str, dict[str, Any]]] = {
    # MS-COCO as text-to-image papers have it since DALL-E: 30,000 captions of val2014
    # (captions_val2014.json), 256 pixels, the real images' centre, and Inception's features; the
    # models have not learned from COCO.
    "coco-fid-30k": {
        "dataset": "coco", "is_zero_shot": True, "decoded_images": 30_000, "image_size": 256,
        "framing": "crop", "inception": ANY, "captions_file": VAL2014,
    },
    # Shifted Diffusion's measure of a prior: the cosine on 10,000 captions of MS-COCO.
    "coco-cosine-10k": {
        "dataset": "coco", "held_out_captions": 10_000, "captions_file": VAL2014,
    },
    # Of models that have learned from the dataset's own training images. Their line says of how
    # many pictures: papers differ in that, so no published values stand beside.
    "cub": {
        "dataset": "cub", "is_zero_shot": False, "decoded_images": ANY, "inception": ANY,
    },
    "ln-coco": {
        "dataset": "mscoco", "is_zero_shot": False, "decoded_images": ANY, "inception": ANY,
    },
    "celeba-hq": {
        "dataset": "celeba-hq", "is_zero_shot": False, "decoded_images": ANY, "inception": ANY,
    },
    "emoji": {"dataset": "noto + twemoji", "is_zero_shot": False},
    # A dataset of embeddings is called as the file or folder that they were read from.
    "flickr8k-embeddings": {
        "dataset": "flickr8k", "encoders": ("clip_vit_b_16",), "is_zero_shot": False,
    },
}  # fmt: skip
"""What each named protocol demands, by field; all else is as the evaluation's protocol says."""
