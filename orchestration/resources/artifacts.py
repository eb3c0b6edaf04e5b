"""The types that flow between assets, known to Dagster by name and loaded when first needed.

Every artefact saves itself to a folder, loads itself from one and has a digest of its content.
Most of their modules import torch, which a code location must not; so Dagster sees an `Artifact`
that names the class, and a type checker sees the class itself.
"""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg
from upath import UPath


class FolderBacked(Protocol):
    """What the IO manager needs of an artefact."""

    @property
    def digest(self) -> str:
        """Names the content: the data version."""

    def save(self, folder: Path | UPath) -> None:
        """Write the content to a folder, whole or not at all."""


class Artifact(dg.DagsterType):
    """A Dagster type that stands for the class `path`, "module:name", imported at its first use.

    `loader` is the path of the function that reads a folder; by default, the class's own `load`.
    """

    def __init__(self, path: str, loader: str | None = None) -> None:
        self.path, self._load = path, loader or f"{path}.load"
        super().__init__(
            type_check_fn=lambda _, value: _is_instance(value, path),
            key=path,
            name=path.partition(":")[2],
            description=f"`{path.replace(':', '.')}`: one folder, named by its content's digest",
            typing_type=Any,
        )

    def load(self, folder: UPath) -> FolderBacked:
        """Read a folder as the class that this type names."""
        module, _, name = self._load.partition(":")
        artifact: FolderBacked = attrgetter(name)(import_module(module))(folder)
        return artifact


def _is_instance(value: object, path: str) -> bool:
    return any(f"{kind.__module__}:{kind.__qualname__}" == path for kind in type(value).__mro__)


if TYPE_CHECKING:
    from corgi_core.data.arrays import ArrayStore as ArrayStore
    from corgi_core.data.caption_proposals import CaptionProposals as CaptionProposals
    from corgi_core.data.dataset import Dataset as Dataset
    from corgi_core.data.image_splits import ImageSplits as ImageSplits
    from corgi_core.data.subsets import CaptionSubset as CaptionSubset
    from corgi_core.decoders.decoder import Decoder as Decoder
    from corgi_core.encoders.clip import ClipEnsemble as ClipEnsemble
    from corgi_core.evaluation.overlap import Overlap as Overlap
    from corgi_core.evaluation.report import Evaluation as Evaluation
    from corgi_core.evaluation.split_overlap import SplitOverlap as SplitOverlap
    from corgi_core.evaluation.stored_models import StoredDecoder as StoredDecoder
    from corgi_core.evaluation.stored_models import StoredPrior as StoredPrior
    from corgi_core.experiments.report import StudyReport as StudyReport
    from corgi_core.gaussians.bank import GaussianBank as GaussianBank
    from corgi_core.prior.model import PriorModel as PriorModel
else:
    ArrayStore = Artifact("corgi_core.data.arrays:ArrayStore")
    CaptionProposals = Artifact("corgi_core.data.caption_proposals:CaptionProposals")
    CaptionSubset = Artifact("corgi_core.data.subsets:CaptionSubset")
    ClipEnsemble = Artifact("corgi_core.encoders.clip:ClipEnsemble")
    Dataset = Artifact("corgi_core.data.dataset:Dataset")
    Decoder = Artifact(
        "corgi_core.decoders.decoder:Decoder", loader="corgi_core.decoders.registry:load_decoder"
    )
    Evaluation = Artifact("corgi_core.evaluation.report:Evaluation")
    Overlap = Artifact("corgi_core.evaluation.overlap:Overlap")
    SplitOverlap = Artifact("corgi_core.evaluation.split_overlap:SplitOverlap")
    ImageSplits = Artifact("corgi_core.data.image_splits:ImageSplits")
    GaussianBank = Artifact("corgi_core.gaussians.bank:GaussianBank")
    PriorModel = Artifact("corgi_core.prior.model:PriorModel")
    StoredDecoder = Artifact("corgi_core.evaluation.stored_models:StoredDecoder")
    StoredPrior = Artifact("corgi_core.evaluation.stored_models:StoredPrior")
    StudyReport = Artifact("corgi_core.experiments.report:StudyReport")
