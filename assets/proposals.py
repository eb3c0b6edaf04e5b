"""Images to caption next: a table for people to fill in, made on request."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.gaussians import PASSED_OVER
from assets.metadata import OWNERS, materialized, proposals_metadata
from assets.versions import decided_by
from corgi_core.io.model_index import CHAMPION, ModelIndex
from orchestration.partitions import PROPOSALS
from orchestration.resources.artifacts import ArrayStore, CaptionProposals, Dataset
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import DEVICE
from orchestration.resources.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from corgi_core.data.caption_choice import Candidates
    from corgi_core.prior.model import PriorModel


class CaptionBudget(dg.Config):
    """How many images are proposed, and by which rule.

    Without one it is "uncertainty" where there is a champion, else "coverage".
    """

    budget: int = 100
    rule: str = ""


@dg.asset(
    group_name=PROPOSALS,
    owners=OWNERS,
    kinds={"faiss", "pytorch", "csv"},
    deps=["text_embeddings"],
    pool=DEVICE,
    metadata=decided_by("data", "seed", revision=1),
)
def caption_proposals(
    context: dg.AssetExecutionContext,
    config: CaptionBudget,
    images: Dataset,
    image_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
    mlflow: MLflow,
) -> dg.MaterializeResult[CaptionProposals]:
    """Training images without a caption, chosen for people to caption; none of them near twins.

    By "uncertainty", which is what the champion cannot generate yet, by "coverage" of the embedding
    space, or at "random". Fill in the table's texts, and ingest it beside the images.
    """
    models_file = Path(mlflow.models_file)
    proposals = proposed(config, images, image_embeddings, workspace, compute, models_file)
    details = proposals_metadata(images, proposals, workspace.path(context))
    return materialized(proposals, **details)


def proposed(
    config: CaptionBudget,
    images: Dataset,
    image_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
    models_file: Path,
) -> "CaptionProposals":
    """Choose images to caption, as `config` says; none where every training image has a caption.

    Raises:
        CorgiError: the rule is unknown, or needs a champion and there is none.
    """
    from corgi_core.data.caption_choice import COVERAGE, UNCERTAINTY, choose
    from corgi_core.data.caption_proposals import CaptionProposals as Proposals
    from corgi_core.data.keys import TrainingKeys
    from corgi_core.gaussians.caption_candidates import candidates_of

    preset = workspace.preset
    mapped = compute.map_images(TrainingKeys(images, captioned=True).count // PASSED_OVER)
    candidates = candidates_of(images, image_embeddings, preset.seed, mapped)
    if not len(candidates):
        return Proposals(())
    reach = None
    if config.rule in ("", UNCERTAINTY):
        reach = _reach(candidates, images, image_embeddings, workspace, compute, models_file)
    rule = config.rule or (COVERAGE if reach is None else UNCERTAINTY)
    choices = choose(
        candidates, config.budget, rule, preset.seed,
        reach=reach, twin_cosine=preset.data.twin_cosine,
    )  # fmt: skip
    return Proposals.of(candidates, choices, rule)


def _reach(
    candidates: "Candidates",
    images: Dataset,
    image_embeddings: ArrayStore,
    workspace: Workspace,
    compute: Compute,
    models_file: Path,
) -> "NDArray[np.float32] | None":
    """How near the candidates are to what the champion generates for the captions that there are.

    None where there is no champion, or no caption.
    """
    from corgi_core.data.arrays import ArrayStore as Store
    from corgi_core.data.keys import TrainingKeys
    from corgi_core.prior.reach import reach_of

    captioned = TrainingKeys(images, captioned=True)
    prior = _champion(models_file, image_embeddings.spec["encoder"], workspace, compute)
    if prior is None or not captioned.count:
        return None
    texts = Store.load(workspace.path_of("text_embeddings"))
    return reach_of(prior, captioned, texts, candidates.directions, workspace.preset.seed)


def _champion(
    models_file: Path, encoder: str, workspace: Workspace, compute: Compute
) -> "PriorModel | None":
    """The champion among the priors, on the device, if it belongs to these encoders."""
    from corgi_core.evaluation.stored_models import StoredPrior

    folder = ModelIndex.champions_in(models_file, "prior").get(CHAMPION)
    stored = None if folder is None else StoredPrior.load(folder)
    if stored is None or stored.encoders["encoder"] != encoder:
        return None
    return stored.open(compute.device.here(), workspace.preset.inference_precision)
