"""A workspace to practise in: made data, priors of seconds, and weeks that pass at once.

What is practised is what production does: ingest, checks, retrain, gate, rollback. The data are
embeddings (`corgi_core.experiments.made_pairs`), so there are no pictures and no decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from corgi_core.experiments.made_pairs import write_pairs
from corgi_core.io.model_index import TextEncoderName, champion_of
from orchestration.automation.refresh import Refresh, Step, Watcher
from orchestration.automation.retrain import Outcome, Retrain, retrain
from orchestration.resources.champions import Champions
from orchestration.resources.model_registry import Registry
from orchestration.resources.promotion_history import PROMOTIONS, Entry, History
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings

DATASET, FRACTION, VARIANT = "drill", "10%", "shifted-k16"
SETTINGS = f"""
extends: embeddings
variants: [{VARIANT}]
caption_subsets: ["{FRACTION}"]
data: {{shard_size: 500, twin_cosine: 1.0}}
encoders:
  text_tokens: 10
  training: {{steps: 150, batch_size: 128, learning_rate: 3e-3, warmup_steps: 5, ema_decay: 0.9,
             evaluate_every: 150, checkpoint_every: 150}}
prior:
  width: 64
  layers: 1
  heads: 2
  training: {{steps: 200, batch_size: 128, learning_rate: 3e-3, warmup_steps: 10, ema_decay: 0.95,
             evaluate_every: 200, checkpoint_every: 200}}
evaluation: {{steps: [4], captions: 400}}
"""
DRIFT = (
    ("image_embeddings", "new_images_are_like_the_champions"),
    ("text_embeddings", "new_captions_are_like_the_champions"),
)


def drill_settings(folder: Path) -> Settings:
    """The settings of a drill's workspace, which is all below `folder`."""
    config = folder / "drill.yaml"
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(SETTINGS, encoding="utf-8")
    environment = {
        "CORGI_HOME": str(folder / ".corgi"), "CORGI_DATA": str(folder / "data"),
        "CORGI_CONFIG": str(config), "CORGI_WORKERS": "0",
    }  # fmt: skip
    return Settings.load(environment, dataset=DATASET)


@dataclass(frozen=True)
class Drill:
    """A workspace in which weeks pass.

    Attributes:
        folder: Of all of it.
        opened: Opens the workspace's refresh, anew for every week.
        watcher: Follows the steps.
    """

    folder: Path
    opened: Callable[[], Refresh]
    watcher: Watcher

    @property
    def settings(self) -> Settings:
        """Of the workspace."""
        return drill_settings(self.folder)

    def add(self, style: str, count: int, name: str) -> None:
        """Ingest new pairs of a style."""
        from corgi_core.data.ingest import ingest

        table, settings = self.folder / f"{name}.parquet", self.settings
        write_pairs(table, style, count, name)
        raw, data = settings.dataset_folder / "raw_images", settings.preset.data
        ingest("embeddings", str(table), raw, data, settings.preset.seed, None)

    def start(self) -> None:
        """Train everything, and choose the first champion."""
        refresh = self.opened()
        refresh.run(refresh.all_steps(), self.watcher)

    def embed(self) -> None:
        """Check and embed what is new, and train nothing."""
        refresh = self.opened()
        assets = ("raw_images", "images", *(asset for asset, _ in DRIFT))
        refresh.run([Step(dg.AssetKey(asset)) for asset in assets], self.watcher)

    def retrain(self, steps: int, *, from_scratch: bool = False) -> Outcome:
        """What came of the prior, after so many steps from the champion or from scratch."""
        parent = "" if from_scratch else "champion"
        wanted = Retrain(fractions=[FRACTION], parent=parent, steps=steps)
        (outcome,) = retrain(self.opened(), wanted, self.watcher)
        return outcome

    def alerts(self) -> list[str]:
        """What the checks of drift warn of, at present."""
        instance, found = self.opened().instance, []
        for asset, check in DRIFT:
            key = dg.AssetCheckKey(dg.AssetKey(asset), check)
            record = instance.get_latest_asset_check_evaluation_record(key)
            evaluation = record.event.asset_check_evaluation if record and record.event else None
            if evaluation is not None and not evaluation.passed:
                found.append(f"{asset}: {evaluation.description}")
        return found

    def roll_back(self, reason: str) -> list[Entry]:
        """Give the champion's title back, as `corgi rollback` does."""
        registry, encoders = Registry(MLflow.of(self.settings)), self.settings.preset.encoders
        champions = Champions(registry)
        with champions.deciding():
            entries = champions.roll_back(champion_of(FRACTION), reason)
            registry.write_index(TextEncoderName(encoders.text, encoders.text_tokens))
        return entries

    def history(self) -> Sequence[Entry]:
        """All decisions on the priors so far."""
        entries = History(self.settings.state / PROMOTIONS).entries()
        return [entry for entry in entries if entry.part == "prior"]
