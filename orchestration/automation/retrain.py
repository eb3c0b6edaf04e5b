"""A retrain: priors continue from the champions of their caption fractions, on the present data.

What the priors are made from is brought up to date first: new shards are embedded, the Gaussians
are fitted again. Then the priors are trained, scored on validation and test captions, and
registered; the registry decides who is champion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import Field

from corgi_core.config import LANGUAGE_FREE, Preset
from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, MODELS_FILE, champion_of, digest_in
from orchestration.automation.refresh import PRIOR, Refresh, Step, Watcher
from orchestration.partitions import Partitions, prior_of, semi_supervised
from orchestration.resources.promotion_history import PROMOTIONS, Event, History
from orchestration.resources.warm_start import (
    CONTINUES_FROM,
    SCRATCH,
    STEPS,
    ParentModel,
    WarmStart,
    last_training,
)
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings


class Retrain(WarmStart):
    """Which priors are retrained, from what, and for how long."""

    parent: str = Field(
        default=CHAMPION,
        description='"champion" continues from the champion of each caption fraction; "" starts '
        "from scratch.",
    )
    fractions: list[str] = Field(
        default=[],
        description="Caption fractions, such as 1.7%. By default those that learn from some of the "
        "captions only; where there are none, all.",
    )
    variant: str = Field(
        default="",
        description="By default the champion's; from scratch, all variants of the preset.",
    )

    def priors(self, settings: Settings) -> list[str]:
        """The partitions of the asset prior.

        Raises:
            CorgiError: there is no such fraction or variant, or no champion to continue from.
        """
        self.check()
        preset, models_file = settings.preset, settings.state / MODELS_FILE
        partitions = Partitions.of(preset)
        subsets = partitions.caption_subsets.get_partition_keys()
        _check_among(self.fractions, subsets, "caption fraction")
        named = [self.variant] if self.variant else []
        _check_among(named, partitions.variants.get_partition_keys(), "variant")
        keys = []
        for subset in self.fractions or _scarce(preset):
            variants = named or list(preset.variants)
            if self.parent:
                champion = ParentModel.champion(models_file, subset, self.variant or None)
                variants = [_known(champion.variant, subset, partitions)]
            keys += [f"{subset}|{variant}" for variant in variants]
        return keys

    @property
    def start(self) -> WarmStart:
        """How each of them starts."""
        return WarmStart(parent=self.parent, steps=self.steps, minutes=self.minutes)


@dataclass(frozen=True)
class Outcome:
    """What came of one prior in a retrain.

    Attributes:
        title: The prior: its asset and partition.
        trained: Whether it was trained now.
        moment: When it was trained, by the event log.
        about: What it continues from, and its budget.
        decision: What was decided of it, and why.
    """

    title: str
    trained: bool
    moment: datetime
    about: str
    decision: str

    @property
    def sentence(self) -> str:
        """The outcome, for people."""
        done = "trained" if self.trained else f"nothing to train, trained {self.moment:%F %R} UTC"
        return f"{self.title}: {done} {self.about}; {self.decision}."


def retrain(refresh: Refresh, wanted: Retrain, watcher: Watcher) -> list[Outcome]:
    """Retrain the priors that are wanted, with all around them.

    What is up to date is not done again: where parent, data and budget are those of the last
    training, nothing is trained.

    Args:
        refresh: Of the workspace; its `kind` is RETRAIN_TAG.
        wanted: Which priors, and how.
        watcher: Follows the steps.

    Returns:
        What came of each prior.

    Raises:
        CorgiError: there are no data, no CLIP, no decoder or no champion; no such fraction or
            variant; and what the steps raise.
    """
    began = time.time()
    steps = plan(refresh, wanted)
    refresh.run(steps, watcher)
    return [_outcome(refresh, step, began) for step in steps if step.asset == PRIOR]


def plan(refresh: Refresh, wanted: Retrain) -> list[Step]:
    """The steps of a retrain, each after its inputs; raises what makes it impossible."""
    return refresh.retrain_steps(wanted.priors(refresh.settings), wanted.start)


def _outcome(refresh: Refresh, step: Step, began: float) -> Outcome:
    assert step.partition is not None, "priors have partitions"
    settings = refresh.settings
    moment, known = last_training(refresh.instance, PRIOR, step.partition) or (0.0, {})
    parent = known.get(CONTINUES_FROM, SCRATCH)
    start = "from scratch" if parent == SCRATCH else f"from the prior {parent}"
    digest = digest_in(Workspace.of(settings).path_of(PRIOR.to_user_string(), step.partition))
    return Outcome(
        title=step.title,
        trained=moment >= began,
        moment=datetime.fromtimestamp(moment, UTC),
        about=f"{start}, {known.get(STEPS)} steps",
        decision=decision_on(
            History(settings.state / PROMOTIONS), prior_of(step.partition)[1], digest
        ),
    )


def decision_on(history: History, subset: str, digest: str | None) -> str:
    """What the promotions' history says last of a prior, in its caption fraction."""
    alias = champion_of(subset)
    if digest in history.rolled_back("prior", alias):
        return f"it was rolled back from as {alias}, and only `corgi promote` makes it that again"
    stack = history.champions("prior", alias)
    for entry in reversed(history.entries()):
        if (entry.part, entry.alias, entry.digest) == ("prior", alias, digest):
            since = ""
            if entry.event is not Event.REFUSED and stack[-1].digest != digest:
                since = f"; by now version {stack[-1].version} is {alias}"
            return f"{entry.event}: {entry.reason}".rstrip(".") + since
    return f"it did not challenge {alias}: another prior of that fraction scored higher"


def _scarce(preset: Preset) -> list[str]:
    """The fractions that learn from some of the captions only; all where there are none."""
    subsets = dict.fromkeys(prior_of(key)[1] for key in semi_supervised(preset))
    return list(subsets) or [s for s in preset.caption_subsets if s != LANGUAGE_FREE]


def _known(variant: str, subset: str, partitions: Partitions) -> str:
    """The variant of a champion, which must be one that can still be trained."""
    if variant not in (known := partitions.variants.get_partition_keys()):
        raise CorgiError(
            f"the champion of {subset} of the captions is {variant}, which the preset has no more",
            f"add {variant} to the preset's variants, or train another from scratch (`corgi "
            f"retrain --fractions {subset} --variant {known[0]} --from scratch`)",
        )
    return variant


def _check_among(names: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise CorgiError(f"there is no {what} {name!r}", f"choose among {', '.join(known)}")
