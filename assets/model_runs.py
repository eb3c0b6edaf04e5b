"""An evaluation's scores in MLflow: a prior's in the run that trained it, under plain names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from corgi_core.config import NO_SUBSET, fraction_of
from corgi_core.evaluation import plain_scores
from corgi_core.evaluation.paired import CaptionScores
from corgi_core.evaluation.report import REAL_EMBEDDING
from corgi_core.evaluation.score_rows import DISTANCES
from corgi_core.io.files import digest_of
from corgi_core.io.pictures import enlarged, save_png
from orchestration.resources.artifacts import Evaluation, FolderBacked, StoredDecoder, StoredPrior
from orchestration.resources.mlflow_views import priors_view
from orchestration.resources.run_messages import PROTOCOL_TAG, SCORES_FOLDER
from orchestration.resources.tracking import MLflow, Parent, TrackedRun, picture_title
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    from corgi_core.evaluation.prior_scores import Name

LONGEST_TITLE = 60  # characters of a picture's title


@dataclass(frozen=True)
class Scored:
    """An evaluation's numbers, on their way to the runs of what was evaluated.

    Attributes:
        report: The evaluation.
        workspace: Where the models and data are.
        mlflow: Where the runs are.
        inputs: What the evaluation was made from beside the priors.
        prefix: Of the scores' names; "" but for another dataset than the models' own.
    """

    report: Evaluation
    workspace: Workspace
    mlflow: MLflow
    inputs: Mapping[str, FolderBacked]
    prefix: str = ""

    def send(
        self,
        context: dg.AssetExecutionContext,
        priors: "Mapping[Name, StoredPrior]",
        decoder: "StoredDecoder | None",
        evaluation: Parent,
    ) -> dict[str, TrackedRun]:
        """Send all scores; the runs of priors and baselines by their names.

        Args:
            context: The evaluation's.
            priors: The priors that were evaluated.
            decoder: The one that decoded their embeddings.
            evaluation: The evaluation's run, above those of the baselines.
        """
        runs = dict[str, TrackedRun]()
        for (variant, subset), prior in priors.items():
            name = f"prior-{variant}-{subset.replace('%', 'pc')}"
            runs[name] = self._send_prior(name, variant, subset, prior, decoder)
        baselines = plain_scores.baseline_scores(self.report.metrics)
        for name, scores in baselines.items():
            runs[name] = self._send_baseline(context, name, scores, decoder, evaluation)
        if decoder is not None and REAL_EMBEDDING in baselines:
            self._send_decoder(decoder, baselines[REAL_EMBEDDING])
        return runs

    def share_view(self, run: TrackedRun) -> str | None:
        """Lay out MLflow's charts of all priors that are scored under this protocol.

        Args:
            run: Of the experiment.

        Returns:
            The charts' page; None where the server did not answer in time.
        """
        metrics, name = self.report.metrics, f"{self.prefix.replace('/', '-')}priors"
        judged = {
            score
            for by_subset in metrics.get("pictures", {}).values()
            for scores in by_subset.values()
            for score in scores
        }
        distance = next((score for score in DISTANCES if score in judged), None)
        scores = ["cosine", "recall_at_1", *([distance] if distance else [])]
        captions = next(iter(self.report.samples.values()), [])
        titles = [self._title(number, caption) for number, (caption, _) in enumerate(captions)]
        runs = "tags.`dagster.asset` = 'prior'"
        if not self.prefix:
            runs += f" and tags.`{PROTOCOL_TAG}` = '{self.report.protocol.digest}'"
        view = priors_view(runs, [self.prefix + score for score in scores], titles)
        run.share_view(name, view)
        return run.view_url(name)

    def _send_prior(
        self,
        name: str,
        variant: str,
        subset: str,
        prior: "StoredPrior",
        decoder: "StoredDecoder | None",
    ) -> TrackedRun:
        metrics, card = self.report.metrics, prior.card
        known = {"variant": variant, "caption_fraction": fraction_of(subset)}
        labels = self._labels(known | card.get("labels", {}), decoder)
        tags = self.mlflow.asset_tags("prior", f"{subset}|{variant}")
        identity = str(card.get("training") or prior.digest)
        with self.mlflow.finished_run(name, identity, tags, labels) as run:
            run.log_datasets("eval", self.workspace.datasets(self.inputs))
            self._send_scores(run, plain_scores.prior_scores(metrics, variant, subset))
            for steps, scores in plain_scores.prior_curves(metrics, variant, subset):
                self._send_scores(run, scores, steps)
            self._send_pictures(run, (variant, subset))
            self._send_captions(run, (variant, subset))
        return run

    def _send_baseline(
        self,
        context: dg.AssetExecutionContext,
        name: str,
        scores: Mapping[str, float],
        decoder: "StoredDecoder | None",
        evaluation: Parent,
    ) -> TrackedRun:
        identity = digest_of(evaluation.identity, name)
        labels = self._labels({"variant": name}, decoder)
        versions = {asset: each.digest for asset, each in self.inputs.items()}
        about = f"A baseline: {name}. It is no prior, and is scored as priors are."
        with self.mlflow.run(context, name, identity, versions, labels, evaluation, about) as run:
            run.log_datasets("eval", self.workspace.datasets(self.inputs))
            self._send_scores(run, scores)
            self._send_pictures(run, (name, NO_SUBSET))
            self._send_captions(run, (name, NO_SUBSET))
        return run

    def _send_decoder(self, decoder: "StoredDecoder", scores: Mapping[str, float]) -> None:
        """The scores of the pictures of real embeddings, to the run that trained the decoder."""
        card, name = decoder.card, f"decoder-{decoder.kind}"
        labels = self._labels(card.get("labels", {}), decoder)
        identity = str(card.get("training") or decoder.digest)
        tags = self.mlflow.asset_tags("decoder", decoder.kind)
        with self.mlflow.finished_run(name, identity, tags, labels) as run:
            run.log_datasets("eval", self.workspace.datasets(self.inputs))
            self._send_scores(run, scores)

    def _send_scores(self, run: TrackedRun, scores: Mapping[str, float], step: int = 0) -> None:
        run.log_metrics({"step": step, **{self.prefix + k: v for k, v in scores.items()}})

    def _send_pictures(self, run: TrackedRun, name: "Name") -> None:
        """The pictures of the prompts that all runs have, under the titles that all have."""
        folder = self.workspace.tracked_folder / "samples" / self.prefix / "-".join(name)
        files = {}
        for number, (caption, sample) in enumerate(self.report.samples.get(name, ())):
            path = folder / f"{number:02d}.png"
            save_png(enlarged(sample), path, {"caption": caption})
            files[self._title(number, caption)] = path
        if files:
            run.log_pictures(files)

    def _title(self, number: int, caption: str) -> str:
        return picture_title(f"{self.prefix}{number:02d} {caption}"[:LONGEST_TITLE])

    def _send_captions(self, run: TrackedRun, name: "Name") -> None:
        """The scores caption by caption on the models' own data, for `corgi compare-runs`."""
        if self.prefix or name not in self.report.captions:
            return
        protocol = self.report.protocol
        folder = self.workspace.tracked_folder / "captions" / "-".join(name)
        CaptionScores(self.report.captions[name], protocol).save(folder)
        run.log_artifacts([folder], SCORES_FOLDER)
        run.log_tags({PROTOCOL_TAG: protocol.digest})

    def _labels(self, labels: Mapping[str, Any], decoder: "StoredDecoder | None") -> dict[str, Any]:
        """A model's own labels, those of the workspace, and whose pictures were scored."""
        named = {} if decoder is None else {"decoder": decoder.kind}
        return {**self.workspace.labels(self.workspace.preset.evaluation.seed), **labels, **named}
