"""Names of priors: what a diffusion starts from, and the share of captions it learns from."""

from __future__ import annotations

import re

BASELINE, LEARNED = "baseline", "-learned"
SHIFTED_TEXT = "shifted-text"  # a Gaussian for every caption: ours, not the paper's
VARIANTS = (
    BASELINE, "shifted-k1", "shifted-k16", "shifted-k128", "shifted-k1024",
    f"shifted-k1024{LEARNED}", SHIFTED_TEXT,
)  # fmt: skip
"""The variants that can be made by name beside a preset's own."""
LANGUAGE_FREE = "0%"  # no captions of the language-free source, but those of the others
ALL_CAPTIONS = "100%"
NO_SUBSET = "none"  # in the place of a caption subset: what no captions were chosen for
CAPTION_SUBSETS = (LANGUAGE_FREE, "1.7%", "10%", ALL_CAPTIONS)

_VARIANT = re.compile(rf"{BASELINE}|{SHIFTED_TEXT}|shifted-k[1-9][0-9]*({LEARNED})?")
_PERCENTAGE = re.compile(r"\d{1,3}(\.\d+)?%")


def valid_variant(name: str) -> str:
    """The name itself; ValueError where it is none of a variant."""
    if not _VARIANT.fullmatch(name):
        raise ValueError(
            f"{BASELINE}, shifted-k<number>, shifted-k<number>{LEARNED} or {SHIFTED_TEXT}"
        )
    return name


def valid_caption_subset(name: str) -> str:
    """The name itself; ValueError where it is no percentage from 0% to 100%."""
    share = float(name.removesuffix("%")) if _PERCENTAGE.fullmatch(name) else -1.0
    if not 0 <= share <= 100 or name != f"{share:g}%":  # one name a share: not "10.0%"
        raise ValueError("a percentage from 0% to 100%, such as 5%")
    return name


def clusters_of(variant: str) -> int | None:
    """Number of Gaussians of a variant's bank; None for the baseline, which starts from N(0, I).

    Of "shifted-text" it is 1: the Gaussian of all images, which dropped captions start from.
    """
    if variant == BASELINE:
        return None
    if variant == SHIFTED_TEXT:
        return 1
    return int(variant.removeprefix("shifted-k").removesuffix(LEARNED))


def is_learned(variant: str) -> bool:
    """Whether the variant's bank is learned by equation (5), after it was fitted."""
    return variant.endswith(LEARNED)


def is_of_captions(variant: str) -> bool:
    """Whether every caption has a Gaussian of its own, which is fitted to a subset's captions."""
    return variant == SHIFTED_TEXT


def fraction_of(caption_subset: str) -> float:
    """The share of training images with captions, in (0, 1]: "1.7%" is 0.017."""
    return float(caption_subset.removesuffix("%")) / 100
