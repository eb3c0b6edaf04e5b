"""What raters are asked: the questions of a survey, and the order in which each rater meets them.

A question is a prompt, a seed and two to four models. All raters are asked the same questions, so
that their agreement can be measured, each in an order of their own, with the models at positions of
their own. Ten questions come a second time among a rater's first 30 votes, their positions
reversed: who looks answers them alike (`corgi_core.metrics.ratings.random_raters`).

Both orders are functions of the survey's secret and the rater's name, so a page that is loaded
again, on another device too, goes on where it was.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from random import Random
from typing import Any, Literal

from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of
from corgi_core.metrics.ratings.random_raters import ENOUGH
from corgi_core.suites.folder import SuiteFolder
from corgi_core.suites.prompts import Prompt

Kind = Literal["pairs", "ranking"]
MIN_MODELS, MAX_MODELS = 2, 4
BEFORE_REPEATS = 10  # votes; from then to `ENOUGH` every second one repeats an earlier one


@dataclass(frozen=True)
class Question:
    """One comparison: a prompt's number and text, a seed, and the models in alphabetical order."""

    prompt: int
    text: str
    seed: int
    models: tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """One vote that a rater is asked for.

    Attributes:
        number: Its position in the rater's order, from 0.
        question: What is compared.
        models: The question's models by position on the page.
        repeats: The slot of the same question's first vote; None where this is the first.
    """

    number: int
    question: Question
    models: tuple[str, ...]
    repeats: int | None


@dataclass(frozen=True)
class Survey:
    """The questions that all raters are asked.

    Attributes:
        suite: The digest of the prompt suite.
        pictures: The digest of what made the models' pictures, as far as it is known.
        kind: "pairs" shows two pictures at once, "ranking" one of every model.
        models: Two to four, in alphabetical order.
        questions: Each at most once.
        secret: Decides the raters' orders, which nobody is to guess.
    """

    suite: str
    pictures: str
    kind: Kind
    models: tuple[str, ...]
    questions: tuple[Question, ...]
    secret: str

    @classmethod
    def of(
        cls, folder: SuiteFolder, models: Sequence[str], kind: Kind | None, count: int
    ) -> Survey:
        """A survey on a suite's pictures.

        Args:
            folder: The suite's.
            models: Which models are compared; none for all that are there.
            kind: None for pairs of two models and rankings of more.
            count: How many questions, at most. The prompts are chosen at random, in turn from
                every category, and all once before any comes with another seed or pair.

        Raises:
            CorgiError: If these are not two to four models that have pictures of the same prompts.
        """
        models = sorted(set(models or folder.models))
        if missing := [model for model in models if model not in folder.models]:
            raise CorgiError(
                f"{folder.path} has no pictures of {', '.join(missing)}",
                f"choose among {', '.join(folder.models) or 'those that `corgi suite` made'}",
            )
        if not MIN_MODELS <= len(models) <= MAX_MODELS:
            raise CorgiError(
                f"{len(models)} models cannot be compared ({', '.join(models)})",
                f"choose {MIN_MODELS} to {MAX_MODELS} with --model NAME, each once",
            )
        kind = kind or ("pairs" if len(models) == MIN_MODELS else "ranking")
        questions = _questions(folder, models, kind, count)
        if not questions:
            raise CorgiError(
                f"{' and '.join(models)} have no picture of the same prompt and seed",
                "make their pictures with `corgi suite`, with the same seeds",
            )
        pictures = digest_of({model: folder.made_by(model) for model in models})
        secret = secrets.token_hex(16)
        return cls(folder.suite.digest, pictures, kind, tuple(models), questions, secret)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Survey:
        """What `to_json` gave."""
        questions = tuple(
            Question(**{**each, "models": tuple(each["models"])}) for each in saved["questions"]
        )
        return cls(**{**saved, "models": tuple(saved["models"]), "questions": questions})

    def to_json(self) -> dict[str, Any]:
        """The survey as plain values."""
        return asdict(self)

    @cached_property
    def digest(self) -> str:
        """Identifies the survey in what browsers send."""
        return digest_of(self.to_json())

    def slots(self, rater: str) -> list[Slot]:
        """The votes that a rater is asked for, in order."""
        random = Random(f"{self.secret}/{rater}")
        fresh = random.sample(self.questions, len(self.questions))
        slots: list[Slot] = []
        unrepeated: list[Slot] = []
        for question in fresh:
            models = tuple(random.sample(question.models, len(question.models)))
            slots.append(Slot(len(slots), question, models, None))
            unrepeated.append(slots[-1])
            if BEFORE_REPEATS <= len(slots) < ENOUGH:
                first = unrepeated.pop(random.randrange(len(unrepeated) - BEFORE_REPEATS // 2))
                again = first.models[::-1]
                slots.append(Slot(len(slots), first.question, again, first.number))
        return slots


def _questions(
    folder: SuiteFolder, models: Sequence[str], kind: Kind, count: int
) -> tuple[Question, ...]:
    random = Random(folder.suite.digest)
    prompts = _in_turn(list(folder.suite.by_category().values()), random)
    groups: list[tuple[str, ...]] = [tuple(models)]
    if kind == "pairs":
        groups = list(combinations(models, MIN_MODELS))
    seeds = {prompt.number: folder.seeds(models, prompt.number) for prompt in prompts}
    rounds = len(groups) * max(map(len, seeds.values()))
    chosen: list[Question] = []
    for turn in range(rounds):
        for position, prompt in enumerate(prompts):
            group = groups[(position + turn) % len(groups)]
            if (which := turn // len(groups)) < len(seeds[prompt.number]):
                seed = seeds[prompt.number][which]
                chosen.append(Question(prompt.number, prompt.text, seed, group))
    return tuple(chosen[:count])


def _in_turn(categories: list[list[Prompt]], random: Random) -> list[Prompt]:
    """All prompts in random order, one of each category after the other while there are any."""
    shuffled = [random.sample(prompts, len(prompts)) for prompts in categories]
    longest = max(map(len, shuffled))
    return [prompts[i] for i in range(longest) for prompts in shuffled if i < len(prompts)]
