"""The ways in which an arm may learn its prior, by name: a network and a loss each."""

from __future__ import annotations

from typing import NamedTuple

from corgi_core.experiments.prior_ablation.flow_matching import FlowTask
from corgi_core.experiments.prior_ablation.learned_source import SourceTask
from corgi_core.experiments.prior_ablation.mlp_denoiser import MLPTask
from corgi_core.experiments.prior_ablation.modes import ModesTask
from corgi_core.prior.task import PriorTask


class Method(NamedTuple):
    """A training of a prior, and its words in figures and tables."""

    task: type[PriorTask]
    label: str


DIFFUSION, MLP, FLOW = "diffusion", "mlp", "flow"  # the product's own, and the others
MODES, SOURCE = "modes", "source"
METHODS = {
    DIFFUSION: Method(PriorTask, "diffusion"),
    MLP: Method(MLPTask, "MLP"),
    FLOW: Method(FlowTask, "flow"),
    MODES: Method(ModesTask, "p(c | y) sampled"),
    SOURCE: Method(SourceTask, "source learned with the network"),
}
