"""The priors that are compared: what a diffusion starts from, and who has captions."""

from __future__ import annotations

BASELINE, LEARNED = "baseline", "-learned"
VARIANTS = (
    BASELINE, "shifted-k1", "shifted-k16", "shifted-k128", "shifted-k1024",
    f"shifted-k1024{LEARNED}",
)  # fmt: skip
LANGUAGE_FREE = "0%"  # no captions of the images that are to be drawn, but those of other sources
CAPTION_SUBSETS = (LANGUAGE_FREE, "1.7%", "10%", "100%")


def clusters_of(variant: str) -> int | None:
    """Number of Gaussians of a variant's bank; None for the baseline, which starts from N(0, I)."""
    if variant == BASELINE:
        return None
    return int(variant.removeprefix("shifted-k").removesuffix(LEARNED))


def is_learned(variant: str) -> bool:
    """Whether the variant's bank is learned by equation (5), after it was fitted."""
    return variant.endswith(LEARNED)


def fraction_of(caption_subset: str) -> float:
    """The share of training images that keep their captions, in (0, 1]: "1.7%" is 0.017."""
    return float(caption_subset.removesuffix("%")) / 100
