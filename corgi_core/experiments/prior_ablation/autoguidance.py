"""Autoguidance: a prior is guided by its own earlier self instead of by the dropped caption.

Karras et al. (2024): both read the caption, and the guidance extrapolates from what a weaker
version of the same network predicts. Samples move away from the weaker one's errors. Guidance by
the dropped caption moves them away from other captions' images.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from corgi_core.diffusion.guidance import guided
from corgi_core.gaussians.bank import Start
from corgi_core.io.files import atomic_file
from corgi_core.prior.model import Prefix, PriorModel
from corgi_core.training.checkpoint import checkpoints_of, step_of


def saved_averages(steps: Collection[int]) -> Callable[[Path], None]:
    """For `train`'s `on_saved`: keeps the averaged weights of checkpoints at these training steps.

    A training that was killed before it copied a checkpoint copies it when it next saves: the
    training loop removes a checkpoint only after two later ones.
    """

    def keep(folder: Path) -> None:
        for checkpoint in checkpoints_of(folder):
            step = step_of(checkpoint)
            if step in steps and not (file := _average(folder, step)).exists():
                file.parent.mkdir(exist_ok=True)
                with atomic_file(file) as temporary:
                    shutil.copyfile(checkpoint / "ema.safetensors", temporary)

    return keep


def autoguided(prior: PriorModel, folder: Path, step: int) -> AutoguidedPrior:
    """A trained prior, guided by its own averaged weights of an earlier step.

    Args:
        prior: What was trained.
        folder: Its training's.
        step: Of the training.
    """
    network = copy.deepcopy(prior.network)
    network.load_state_dict(load_file(_average(folder, step)))
    weak = PriorModel(network, prior.bank, prior.settings, prior.encoders, card={})
    return AutoguidedPrior(prior, weak)


class AutoguidedPrior(PriorModel):
    """A prior that is guided by a weaker one of the same bank."""

    def __init__(self, prior: PriorModel, weak: PriorModel) -> None:
        super().__init__(prior.network, prior.bank, prior.settings, prior.encoders, prior.card)
        self._weak = weak

    def denoiser(
        self, prefix: Prefix, start: Start, timesteps: Sequence[int], guidance: float
    ) -> Callable[[Tensor, int], Tensor]:
        """weak + guidance · (strong − weak) of both predictions ẑ_0; each has read the caption."""
        strong = super().denoiser(prefix, start, timesteps, 1)
        weak = self._weak.denoiser(prefix, start, timesteps, 1)
        return lambda u_t, t: guided(weak(u_t, t), strong(u_t, t), guidance)


def _average(folder: Path, step: int) -> Path:
    return folder / "averages" / f"step-{step:06d}.safetensors"
