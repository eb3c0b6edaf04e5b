"""Which images are chosen to be captioned: by what chance, how many of which, and no near twins."""

from __future__ import annotations

import numpy as np
import pytest

from corgi_core.data.caption_choice import (
    COVERAGE,
    RANDOM,
    RULES,
    UNCERTAINTY,
    Candidates,
    choose,
)
from corgi_core.errors import CorgiError


def candidates(*degrees: float) -> Candidates:
    """Images on a circle, none of which has a caption."""
    angles = np.radians(degrees)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return Candidates(
        np.array([f"at {degree}" for degree in degrees]),
        directions,
        np.full(len(degrees), -1, np.float32),
    )


def near(images: Candidates, degree: float) -> np.ndarray:
    """The images' cosines to a point on the circle."""
    angle = np.radians(degree)
    return images.directions @ np.array([np.cos(angle), np.sin(angle)], np.float32)


def first_of(images: Candidates, rule: str, **more: object) -> np.ndarray:
    """The share of each image among the first choices of 2,000 seeds."""
    rows = [choose(images, 1, rule, seed, **more)[0].row for seed in range(2000)]  # type: ignore[arg-type]
    return np.bincount(rows, minlength=len(images)) / 2000


def test_an_image_is_chosen_by_its_squared_distance_to_what_has_a_caption() -> None:
    images = candidates(20, 60, 90, 180)
    images.captioned[:] = near(images, 0)
    points = images.directions.astype(float)
    squared = np.square(points - [1, 0]).sum(axis=1)  # by coordinates, not by cosines
    expected = squared / squared.sum()
    assert first_of(images, COVERAGE) == pytest.approx(expected, abs=0.03)
    assert first_of(images, RANDOM) == pytest.approx([0.25] * 4, abs=0.03)


def test_uncertainty_asks_for_what_the_prior_does_not_reach() -> None:
    images = candidates(20, 60, 90, 180)
    images.captioned[:] = near(images, 0)
    found = first_of(images, UNCERTAINTY, reach=near(images, 180))
    mirrored = np.square(images.directions - [-1, 0]).sum(axis=1)
    assert found == pytest.approx(mirrored / mirrored.sum(), abs=0.03)
    (choice,) = choose(images, 1, UNCERTAINTY, 0, reach=near(images, 180))
    assert choice.reach == pytest.approx(float(near(images, 180)[choice.row]))


def test_what_was_chosen_is_a_centre_for_what_follows() -> None:
    """Three pairs, far apart: three choices are of three pairs; a uniform one is so in 2 of 5."""
    images = candidates(0, 1, 120, 121, 240, 241)
    for rule in (COVERAGE, UNCERTAINTY):
        apart = [
            {choice.row // 2 for choice in choose(images, 3, rule, seed, reach=images.captioned)}
            for seed in range(50)
        ]
        assert sum(len(pairs) == 3 for pairs in apart) >= 48
    at_random = [{c.row // 2 for c in choose(images, 3, RANDOM, seed)} for seed in range(50)]
    assert sum(len(pairs) == 3 for pairs in at_random) < 35


@pytest.mark.parametrize("rule", RULES)
def test_of_near_twins_one_is_chosen_and_none_of_an_image_with_a_caption(rule: str) -> None:
    images = candidates(*range(0, 360, 10), *range(1, 361, 10))
    images.captioned[:] = near(images, 0)
    choices = choose(images, 72, rule, 3, reach=near(images, 90), twin_cosine=np.cos(np.radians(5)))
    angles = sorted(float(images.keys[choice.row].removeprefix("at ")) for choice in choices)
    assert len(angles) == 35  # of 36 pairs one has the image with a caption for a twin
    assert min(np.diff(angles)) >= 9
    every = choose(images, 100, rule, 3, reach=near(images, 90))
    assert sorted(choice.row for choice in every) == list(range(72))


def test_the_seed_decides() -> None:
    images = candidates(*range(0, 360, 3))
    for rule in RULES:
        first, again, other = (
            [c.row for c in choose(images, 10, rule, seed, reach=images.captioned)]
            for seed in (0, 0, 1)
        )
        assert first == again != other


def test_what_cannot_be_done_is_refused() -> None:
    images = candidates(0, 90)
    with pytest.raises(CorgiError, match="there is no rule 'best'"):
        choose(images, 1, "best", 0)
    with pytest.raises(CorgiError, match="0 images cannot be proposed"):
        choose(images, 0, RANDOM, 0)
    with pytest.raises(CorgiError, match="known only of a prior") as refused:
        choose(images, 1, UNCERTAINTY, 0)
    assert COVERAGE in refused.value.remedy
