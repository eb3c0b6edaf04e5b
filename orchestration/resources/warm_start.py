"""How the training of a prior starts, and how long it is: a retrain's parent and its budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from corgi_core.config import TrainingSettings
from corgi_core.errors import CorgiError
from corgi_core.io.files import read_json
from corgi_core.io.folders import published
from corgi_core.io.model_folder import CARD
from corgi_core.io.model_index import CHAMPION, ModelIndex, champion_of

if TYPE_CHECKING:
    from corgi_core.prior.model import PriorModel

WARM_SHARE = 0.25  # of the settings' steps: a warm start's budget, where none is given
NO_BUDGET = "the default"
SCRATCH = "scratch"  # what a training continues from that has no parent
CONTINUES_FROM, BUDGET = "continues_from", "budget"  # metadata of a prior's materialization
STEPS, SECONDS = "steps", "training_seconds"  # … and what is read of them again

log = logging.getLogger(__name__)


class WarmStart(dg.Config):
    """A prior's start and budget; by default it is trained from scratch as the settings say."""

    parent: str = Field(
        default="",
        description='"champion" continues from the champion of the caption fraction; "" starts '
        "from scratch.",
    )
    steps: int | None = Field(
        default=None,
        description="How many optimiser steps. By default those of the settings, or a quarter of "
        "them where there is a parent.",
    )
    minutes: float | None = Field(
        default=None,
        description="Instead of steps: as many as the partition's last training did in that time.",
    )

    def check(self) -> None:
        """Raise CorgiError for a start or a budget that there is not."""
        if self.parent not in ("", CHAMPION):
            raise CorgiError(
                f"a prior cannot continue from {self.parent!r}",
                f'set parent to "{CHAMPION}", or to "" to start from scratch',
            )
        if self.steps is not None and self.minutes is not None:
            raise CorgiError("a budget is in steps or in minutes", "give one of the two")
        if (self.steps is not None and self.steps < 1) or (
            self.minutes is not None and not self.minutes > 0
        ):
            raise CorgiError(f"a budget of {self.budget} trains nothing", "give more than 0")

    @property
    def budget(self) -> str:
        """The budget as it was given, `NO_BUDGET` where none was."""
        if self.steps is not None:
            return f"{self.steps} steps"
        return NO_BUDGET if self.minutes is None else f"{self.minutes:g} minutes"

    def training(
        self, settings: TrainingSettings, generation: int, speed: float | None
    ) -> TrainingSettings:
        """The settings of the training within the budget.

        A training with a parent has a share of the settings' learning rate, the budget's share of
        their steps, so that a short one does not unlearn more than it learns. The generation is
        added to the seed: the batches and their noise are not the parent's.

        Args:
            settings: Of a training from scratch.
            generation: How many parents there are, one after the other; 0 from scratch.
            speed: Steps a second, for a budget in minutes; None where it is not known.

        Raises:
            CorgiError: the budget is in minutes, and no speed is known.
        """
        steps = self.steps or (round(WARM_SHARE * settings.steps) if generation else settings.steps)
        if self.minutes is not None:
            if speed is None:
                raise CorgiError(
                    "how many steps this prior does in a minute is not known, as no training of it "
                    "is on record",
                    "give the budget in steps",
                )
            steps = round(60 * self.minutes * speed)
        steps = max(1, steps)
        if not generation:
            return replace(settings, steps=steps)
        return replace(
            settings,
            steps=steps,
            warmup_steps=min(settings.warmup_steps, steps // 10),
            learning_rate=settings.learning_rate * min(1.0, steps / settings.steps),
            seed=settings.seed + generation,
        )

    def difference(self, known: Mapping[str, Any], parent: str | None) -> str | None:
        """How a training on record differs from this one; None where it would be the same again.

        Args:
            known: The metadata of a prior's materialization.
            parent: The digest of the model to continue from; None from scratch.
        """
        if known.get(CONTINUES_FROM, SCRATCH) != (parent or SCRATCH):
            return f"continues from the prior {parent}" if parent else "starts from scratch"
        if (budget := known.get(BUDGET, NO_BUDGET)) != self.budget:
            return f"the budget was {budget}, and is {self.budget}"
        return None


@dataclass(frozen=True)
class ParentModel:
    """The registered prior that a training continues from."""

    folder: Path
    digest: str
    alias: str

    @classmethod
    def champion(cls, models_file: Path, subset: str, variant: str | None = None) -> ParentModel:
        """The champion of a caption fraction, which must be of the variant, if one is named.

        Raises:
            CorgiError: there is none, its files are gone or others, or it is another variant.
        """
        index, alias = ModelIndex.load(models_file), champion_of(subset)
        known = index.models.get("prior", {})
        if alias not in known:
            raise CorgiError(
                f"there is no champion of {subset} of the captions to continue from",
                "train and register one with `corgi run`, or start from scratch (`corgi retrain "
                "--from scratch`)",
            )
        champion = cls(index.folder("prior", alias), known[alias].digest, alias)
        if variant not in (None, champion.variant):
            raise CorgiError(
                f"the champion of {subset} of the captions is {champion.variant}, not {variant}",
                f"retrain {champion.variant}, or train {variant} from scratch (`corgi retrain "
                f"--variant {variant} --from scratch`)",
            )
        return champion

    @property
    def variant(self) -> str:
        """The parent's variant."""
        return str(self._card["labels"]["variant"])

    @property
    def generation(self) -> int:
        """How many parents the parent has, one after the other."""
        return int(self._card.get("generation", 0))

    def load(self) -> PriorModel:
        """The model."""
        from corgi_core.prior.model import PriorModel

        return PriorModel.load(self.folder)

    @property
    def card(self) -> dict[str, Any]:
        """Entries of the card of a model that continues from this one."""
        return {"parent": self.digest, "generation": self.generation + 1}

    @property
    def _card(self) -> dict[str, Any]:
        card: dict[str, Any] = read_json(published(self.folder) / CARD)
        return card


def last_training(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str
) -> tuple[float, Mapping[str, Any]] | None:
    """When a partition was materialised last, and its metadata's values; None if it never was."""
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        materialization = record.asset_materialization
        if materialization is not None:
            values = {name: value.value for name, value in materialization.metadata.items()}
            return record.timestamp, values
    return None


def speed_of(training: tuple[float, Mapping[str, Any]] | None) -> float | None:
    """Steps a second of a materialization's training; None where it does not say."""
    values = training[1] if training else {}
    steps, seconds = values.get(STEPS), values.get(SECONDS)
    return steps / seconds if steps and seconds else None
