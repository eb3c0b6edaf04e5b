"""Brings a workspace up to date: what is done and unchanged is not done again.

Dagster knows what is stale: every asset has a code version (of its settings and source), every
partition a data version (the digest of its content), and a materialization remembers those of its
inputs. Steps run one by one in this process, so that an interrupted job loses one step at most.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg

from corgi_core.config import Preset
from corgi_core.errors import CorgiError
from corgi_core.io.folders import has_files
from corgi_core.io.locks import exclusive_lock
from corgi_core.io.model_index import MODELS_FILE, ModelIndex
from orchestration.automation.new_data import observe
from orchestration.automation.staleness import (
    NEW_DATA_VERSION,
    DagsterAssetCheckFailedError,
    checks_hold,
    data_version,
    end_interrupted_runs,
    failures,
    staleness,
)
from orchestration.partitions import (
    ASKED_FOR,
    CAPTIONED,
    COMPARISON,
    STUDY,
    is_compared,
    is_made_by_default,
    prior_of,
)
from orchestration.resources.dvc import INGEST, LOCK, version_in_lock
from orchestration.resources.logs import TO_FILE_ONLY
from orchestration.resources.runs import (
    CANCELLED,
    cancel,
    cancelled_in_time,
    end_dead_runs,
    process_tags,
    wait_for,
)
from orchestration.resources.traces import traced_run
from orchestration.resources.tracking import REFRESH_TAG
from orchestration.resources.warm_start import ParentModel, WarmStart, last_training
from orchestration.resources.workspace import RAW_VERSION, Workspace
from orchestration.settings import Settings

if TYPE_CHECKING:
    from orchestration.automation.staleness import AssetGraph

TAG = {"corgi/refresh": "true"}
RAW_DATA = dg.AssetKey("raw_images")
EVALUATED_DATA = dg.AssetKey("zero_shot_images")
REGISTRY = "registered_models"  # stored by MLflow, not by an IO manager
PRIOR = dg.AssetKey("prior")
STAY = ("clip_encoder", "decoder")  # in a retrain, which embeds by the CLIP that there is


@dataclass(frozen=True)
class Step:
    """One partition of one asset; of a prior in a retrain, with what it continues from."""

    asset: dg.AssetKey
    partition: str | None = None
    start: WarmStart | None = field(default=None, compare=False)

    @property
    def title(self) -> str:
        """The asset and its partition, for messages."""
        name = self.asset.to_user_string()
        return name if self.partition is None else f"{name} {self.partition.replace('|', ' ')}"


class Watcher(Protocol):
    """What follows a refresh: a screen, a log."""

    def unchanged(self, title: str) -> None:
        """A step that need not be done."""

    def doing(self, title: str, reason: str) -> AbstractContextManager[None]:
        """A step that must be done, and why; the block is entered before and left after it."""


@dataclass(frozen=True)
class Refresh:
    """The repository's assets in one workspace, whose history is in `instance`.

    All that is materialised in one refresh has its `name` in Dagster and in MLflow, as the value of
    the tag `kind`.
    """

    repository: dg.RepositoryDefinition
    instance: dg.DagsterInstance
    settings: Settings
    kind: str = REFRESH_TAG
    name: str = field(default_factory=lambda: f"{datetime.now():%Y-%m-%d-%H%M%S}")

    def run(self, steps: Iterable[Step], watcher: Watcher) -> int:
        """Do those of `steps` that must be done, in their order; returns how many they were."""
        done = 0
        with only_one(self.instance, self.settings):
            for step in steps:
                reason = self.reason_to_run(step)
                if reason is None:
                    watcher.unchanged(step.title)
                    continue
                with watcher.doing(step.title, reason):
                    self.materialize(step)
                done += 1
        return done

    def all_steps(self) -> list[Step]:
        """The partitions of all assets that are not made on request, each after its inputs.

        Where there are no captions, the steps end at the decoder.
        """
        if self.settings.preset.decoder is not None and not _has_captions(self.settings):
            return self._steps(dg.AssetSelection.assets("decoder").upstream())
        return self._steps(dg.AssetSelection.all() - dg.AssetSelection.groups(*ASKED_FOR))

    def study_steps(self) -> list[Step]:
        """The study and all that it is made from."""
        return self._steps(dg.AssetSelection.groups(STUDY).upstream())

    def comparison_steps(self) -> list[Step]:
        """The decoders' comparison and all that it is made from, registered too."""
        compared = dg.AssetSelection.groups(COMPARISON) | dg.AssetSelection.assets(REGISTRY)
        return self._steps(compared.upstream() - dg.AssetSelection.groups(CAPTIONED), is_compared)

    def retrain_steps(self, priors: Collection[str], start: WarmStart) -> list[Step]:
        """The partitions `priors` of the asset prior, trained from `start`, and all around them.

        Before them comes what they are made from, after them evaluation and registry. CLIP and the
        decoder stay as they are, so the embeddings of before stay too, and new shards alone are
        embedded.

        Raises:
            CorgiError: there is no CLIP or no decoder yet, or no data.
        """
        if not _has_data(self.settings):
            raise CorgiError(
                f"there are no data in {self.settings.dataset_folder}, so nothing can be retrained",
                "bring them with `corgi ingest PATH --name NAME`, and train first with `corgi run`",
            )
        for step in self._steps(dg.AssetSelection.assets(*self._that_stay)):
            if self._is_missing(step):
                raise CorgiError(
                    f"{step.title} is missing, and a retrain leaves it as it is",
                    "train everything once with `corgi run`; a retrain goes on from there",
                )
        wanted = {name for key in priors for name in (key, *key.split("|"))}
        scored = dg.AssetSelection.assets("evaluation").upstream()
        selection = scored | dg.AssetSelection.assets(REGISTRY)
        steps = self._steps(
            selection
            - dg.AssetSelection.groups(*ASKED_FOR)
            - dg.AssetSelection.assets(*self._that_stay),
            lambda key, _: key in wanted,
        )
        return [replace(step, start=start) if step.asset == PRIOR else step for step in steps]

    @property
    def _that_stay(self) -> list[dg.AssetKey]:
        there = self._graph.get_all_asset_keys()
        return [key for name in STAY if (key := dg.AssetKey(name)) in there]

    def _is_missing(self, step: Step) -> bool:
        known = staleness(self._graph, step.asset, step.partition, self.instance) != "missing"
        return not (known and _is_stored(step, self.settings))

    def _steps(
        self,
        selection: dg.AssetSelection,
        is_wanted: Callable[[str, Preset], bool] = is_made_by_default,
    ) -> list[Step]:
        selected, preset, steps = selection.resolve(self._graph), self.settings.preset, []
        for asset in self._graph.toposorted_asset_keys:
            if asset not in selected:
                continue
            definition = self._graph.get(asset).partitions_def
            if definition is None:
                steps.append(Step(asset))
                continue
            keys = definition.get_partition_keys()
            steps += [Step(asset, key) for key in keys if is_wanted(key, preset)]
        return steps

    def reason_to_run(self, step: Step) -> str | None:
        """Why the step must be done (again); None when it is up to date."""
        if step.asset == RAW_DATA:
            observe(self.instance, self.settings)
            if _data_changed(self.instance, self.settings):
                return "the data have changed"
        reason = staleness(self._graph, step.asset, step.partition, self.instance)
        if reason and (step.asset, reason) != (RAW_DATA, NEW_DATA_VERSION):
            return reason  # that of raw data was asked above: a run itself records it under DVC
        if step.asset == EVALUATED_DATA and _evaluated_data_changed(self.instance, self.settings):
            return "the data have changed"
        if step.start is not None and (reason := self._reason_to_start(step, step.start)):
            return reason
        if not _is_stored(step, self.settings):
            return "its files are gone"
        if not checks_hold(self._graph, step.asset, self.instance):
            return "a check has not passed"
        return None

    def _reason_to_start(self, step: Step, start: WarmStart) -> str | None:
        """How a prior's last training differs from the one that `start` asks for, if it does."""
        assert step.partition is not None, "priors have partitions"
        last = last_training(self.instance, step.asset, step.partition)
        parent = None
        if start.parent:
            variant, subset = prior_of(step.partition)
            models_file = self.settings.state / MODELS_FILE
            parent = ParentModel.champion(models_file, subset, variant).digest
        return start.difference(last[1] if last else {}, parent)

    def materialize(self, step: Step) -> None:
        """Materialise the step with its checks; raises what the asset raised.

        A check that does not pass is a CorgiError: nothing is made from such an asset.
        """
        run_id = str(uuid.uuid4())
        if pool := self.repository.assets_defs_by_key[step.asset].op.pool:
            wait_for(self.instance, pool)
        traced = traced_run(self.settings, self.instance, run_id, step.title)
        try:
            with cancelled_in_time(self.instance, run_id), traced:
                self.repository.get_implicit_global_asset_job_def().execute_in_process(
                    instance=self.instance,
                    asset_selection=[step.asset],
                    partition_key=step.partition,
                    run_config=TO_FILE_ONLY | _configuration(step),
                    run_id=run_id,
                    tags=TAG | {self.kind: self.name} | process_tags(run_id),
                )
        except CANCELLED as interrupted:
            cancel(self.instance, run_id)
            raise KeyboardInterrupt from interrupted
        except DagsterAssetCheckFailedError as error:
            failed = failures(self._graph, step.asset, self.instance)
            raise CorgiError(
                f"{step.title} does not pass its checks: {failed}",
                "mend the data and run again; `corgi ui` shows the checks' tables",
            ) from error

    @property
    def _graph(self) -> AssetGraph:
        return self.repository.asset_graph


@contextmanager
def only_one(instance: dg.DagsterInstance, settings: Settings) -> Iterator[None]:
    """Hold the workspace's lock; what a killed refresh left running in Dagster's eyes is ended."""
    busy = f"the workspace {settings.workspace} is being brought up to date already"
    with exclusive_lock(settings.state / "refresh.lock", busy):
        end_interrupted_runs(instance, TAG)
        end_dead_runs(instance)
        yield


def _configuration(step: Step) -> dict[str, Any]:
    """The run's configuration of the asset."""
    if step.start is None:
        return {}
    given = {name: value for name, value in step.start.model_dump().items() if value is not None}
    return {"ops": {step.asset.to_python_identifier(): {"config": given}}}


def _has_data(settings: Settings) -> bool:
    """Whether there are raw data."""
    from corgi_core.data.dataset import is_dataset

    return is_dataset(Workspace.of(settings).path_of(RAW_DATA.to_user_string(), None))


def _has_captions(settings: Settings) -> bool:
    """Whether any image of the data has one; data that are not there yet are taken to have some."""
    from corgi_core.data.dataset import Dataset, is_dataset

    raw = Workspace.of(settings).path_of(RAW_DATA.to_user_string(), None)
    if not is_dataset(raw):
        return True
    return bool(Dataset.load(raw).counts["captioned"].any())


def _data_changed(instance: dg.DagsterInstance, settings: Settings) -> bool:
    """Whether other raw data lie there than were materialised: ingested anew, or by DVC."""
    from corgi_core.data.dataset import Dataset, is_dataset

    known = data_version(instance, RAW_DATA)
    path = Workspace.of(settings).path_of(RAW_DATA.to_user_string(), None)
    if known is None:
        return False
    if not is_dataset(path):
        return True
    found = version_in_lock(LOCK, INGEST) if settings.under_dvc else Dataset.load(path).digest
    return known != found


def _evaluated_data_changed(instance: dg.DagsterInstance, settings: Settings) -> bool:
    """Whether the dataset of the zero-shot evaluation is another than was gated."""
    event = instance.get_latest_materialization_event(EVALUATED_DATA)
    materialization = event.asset_materialization if event else None
    known = materialization.metadata.get(RAW_VERSION) if materialization else None
    return known is None or known.value != Workspace.of(settings).zero_shot_raw.digest


def _is_stored(step: Step, settings: Settings) -> bool:
    asset = step.asset.to_user_string()
    if asset == REGISTRY:
        try:
            index = ModelIndex.load(settings.state / MODELS_FILE)
            return all(index.folder(part) for part in ("clip", "prior"))
        except CorgiError:
            return False
    return has_files(Workspace.of(settings).path_of(asset, step.partition))
