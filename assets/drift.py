"""Whether new data are like those that the champion has learned from: checks that warn.

Each check leaves a small sample of the embeddings beside them, under their data version. So when a
model becomes champion, what its data were like is known, whatever becomes of the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, ModelIndex
from orchestration.resources.artifacts import ArrayStore
from orchestration.resources.tracking import MLflow
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from corgi_core.data.embedding_sample import EmbeddingSample
    from corgi_core.gaussians.bank import GaussianBank

ARRAYS = {"image_embeddings": "image", "text_embeddings": "text"}
FEW = 20  # new embeddings say too little of a distribution
CERTAIN = 1e-3  # a probability by chance below which spreads over the Gaussians differ


@dg.asset_check(asset="image_embeddings")
def new_images_are_like_the_champions(
    image_embeddings: ArrayStore, workspace: Workspace, mlflow: MLflow
) -> dg.AssetCheckResult:
    """New images' mean and spread over the Gaussians, against those the champion learned from."""
    return drift_of("image_embeddings", image_embeddings, workspace, mlflow)


@dg.asset_check(asset="text_embeddings")
def new_captions_are_like_the_champions(
    text_embeddings: ArrayStore, workspace: Workspace, mlflow: MLflow
) -> dg.AssetCheckResult:
    """New captions' mean and gap to their images, against those the champion learned from."""
    return drift_of("text_embeddings", text_embeddings, workspace, mlflow)


@dataclass(frozen=True)
class Finding:
    """One measure: what it says in a sentence, whether it alerts, and its numbers."""

    sentence: str
    alerts: bool
    numbers: Mapping[str, float]


def drift_of(
    asset: str, store: ArrayStore, workspace: Workspace, mlflow: MLflow
) -> dg.AssetCheckResult:
    """Compare a store's new shards with what the champion learned from, and leave a sample.

    Args:
        asset: "image_embeddings" or "text_embeddings".
        store: Its present value.
        workspace: Whose settings have the thresholds.
        mlflow: Whose registry has the champion.
    """
    from corgi_core.data.embedding_sample import EmbeddingSample, sampled

    settings, name = workspace.preset.drift, ARRAYS[asset]
    samples = workspace.path_of(f"{asset}_samples")
    if not (samples / store.digest).exists():
        EmbeddingSample.of(store, name, settings.sample).save(samples / store.digest)
    card = champion_card(Path(mlflow.models_file))
    try:
        reference = EmbeddingSample.load(samples / card["data_versions"][asset])
    except (CorgiError, KeyError):
        return _passed("there is no champion yet whose data are known: nothing to compare with")
    if reference.encoder != store.spec["encoder"]:
        return _passed("the champion belongs to other encoders: nothing can be compared")
    shards = reference.new_in(store)
    count = sum(store.rows_in(shard) for shard in shards)
    if count < FEW:
        return _passed(f"{count} new embeddings since the champion: too few to compare")
    new = sampled(store, name, shards, settings.sample)
    findings = [mean_finding(reference.rows, new, settings.mean_shift, settings.z)]
    if asset == "image_embeddings":
        findings += occupancy_findings(reference.rows, new, workspace, card)
    else:
        findings += gap_findings(reference, new, shards, workspace, card)
    return _outcome(findings, count)


def champion_card(models_file: Path) -> dict[str, Any]:
    """The model card of the overall champion among the priors; empty where there is none."""
    from corgi_core.evaluation.stored_models import StoredPrior

    folder = ModelIndex.champions_in(models_file, "prior").get(CHAMPION)
    return {} if folder is None else StoredPrior.load(folder).card


def mean_finding(
    reference: "NDArray[np.float16]", new: "NDArray[np.float16]", limit: float, certain: float
) -> Finding:
    """How far the mean has moved."""
    from corgi_core.metrics.drift import mean_shift

    found = mean_shift(reference, new)
    alerts = found.size >= limit and found.z >= certain
    return Finding(
        f"their mean lies {found.size:.2f} of the embeddings' own spread from the old one's "
        f"(alert from {limit:g}; z = {found.z:.1f}, alert from {certain:g})",
        alerts,
        {"mean_shift": found.size, "mean_shift_z": found.z},
    )


def occupancy_findings(
    reference: "NDArray[np.float16]",
    new: "NDArray[np.float16]",
    workspace: Workspace,
    card: Mapping[str, Any],
) -> list[Finding]:
    """How differently they are spread over the Gaussians; nothing without several Gaussians."""
    import torch

    from corgi_core.metrics.drift import occupancy

    bank = _bank(workspace, str(card.get("labels", {}).get("variant", "")))
    if bank is None:
        return []
    before, after = (
        bank.assign(torch.from_numpy(rows).float()).numpy() for rows in (reference, new)
    )
    found, limit = occupancy(before, after, bank.k), workspace.preset.drift.occupancy
    return [
        Finding(
            f"their spread over {bank.k} Gaussians differs by an index of {found.psi:.2f} "
            f"(alert from {limit:g}; p = {found.p:.1g} by chance)",
            found.psi >= limit and found.p < CERTAIN,
            {"occupancy_psi": found.psi, "occupancy_p": found.p},
        )
    ]


def gap_findings(
    reference: "EmbeddingSample",
    new: "NDArray[np.float16]",
    shards: Sequence[str],
    workspace: Workspace,
    card: Mapping[str, Any],
) -> list[Finding]:
    """How much the gap to the images has changed; nothing where these are not embedded yet."""
    from corgi_core.data.arrays import ArrayStore as Store
    from corgi_core.data.embedding_sample import EmbeddingSample, sampled
    from corgi_core.metrics.drift import gap_change

    settings, version = workspace.preset.drift, card["data_versions"].get("image_embeddings", "")
    try:
        images = Store.load(workspace.path_of("image_embeddings"))
        before = EmbeddingSample.load(workspace.path_of("image_embeddings_samples") / version)
    except CorgiError:
        return []
    there = [shard for shard in shards if shard in images.shards]
    if not there or before.encoder != images.spec["encoder"]:
        return []
    after = sampled(images, "image", there, settings.sample)
    dims = images.spec["encoder_dims"]
    found = gap_change((before.rows, reference.rows), (after, new), dims)
    change, limit = found.after - found.before, settings.modality_gap
    return [
        Finding(
            f"the gap between images and captions is {found.after:.2f} and was {found.before:.2f} "
            f"({found.low:+.2f} to {found.high:+.2f}; alert from {limit:g})",
            abs(change) >= limit and not found.low <= 0 <= found.high,
            {"modality_gap": found.after, "modality_gap_before": found.before},
        )
    ]


def _bank(workspace: Workspace, variant: str) -> "GaussianBank | None":
    """A bank of several Gaussians: the champion's own before any other of the preset."""
    from corgi_core.gaussians.bank import GaussianBank

    for name in dict.fromkeys((variant, *workspace.preset.variants)):
        try:
            bank = GaussianBank.load(workspace.path_of("gaussian_bank", name))
        except CorgiError:
            continue
        if bank.k > 1:
            return bank
    return None


def _outcome(findings: Sequence[Finding], count: int) -> dg.AssetCheckResult:
    alerts = [each for each in findings if each.alerts]
    what = "are not like" if alerts else "are like"
    sentences = "; ".join(each.sentence for each in alerts or findings)
    advice = "; evaluate the champion on them, and retrain" if alerts else ""
    return dg.AssetCheckResult(
        passed=not alerts,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{count} new embeddings {what} those that the champion learned from: "
        f"{sentences}{advice}",
        metadata={
            name: float(f"{value:.4g}") for each in findings for name, value in each.numbers.items()
        },
    )


def _passed(sentence: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=True, severity=dg.AssetCheckSeverity.WARN, description=sentence
    )
