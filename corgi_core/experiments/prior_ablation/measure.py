"""Training and measuring one arm; an interrupted study continues with the arms that are missing.

<folder>/<arm>-<digest>/              its run folder, of the one training loop
<folder>/<arm>-<digest>.<plan>.json   its measurement, written last and whole
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corgi_core.config import Preset
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset, sources_of
from corgi_core.data.keys import KeySet, SplitKeys, validation_keys
from corgi_core.data.splits import TRAIN, VALIDATION
from corgi_core.data.subsets import caption_subset
from corgi_core.devices import CPU, Device
from corgi_core.diffusion.schedule import TIMESTEPS
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.protocol import Protocol
from corgi_core.experiments.prior_ablation.arms import CAPTIONS, LEARNED, Arm, bank_of
from corgi_core.experiments.prior_ablation.autoguidance import autoguided, saved_averages
from corgi_core.experiments.prior_ablation.methods import METHODS
from corgi_core.experiments.prior_ablation.scores import Scorer
from corgi_core.experiments.prior_ablation.sweeps import Plan, Sampling
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.caption_conditioned import CaptionGaussians
from corgi_core.gaussians.learned import BankTask
from corgi_core.io.files import digest_of, read_json, write_json
from corgi_core.metrics.cosine_by_timestep import CosineByTimestep
from corgi_core.metrics.spread import spread
from corgi_core.prior.caption_fit import fit_caption_gaussians
from corgi_core.prior.model import CAPTIONS_AT_ONCE, Callback, PriorModel
from corgi_core.prior.task import Captions
from corgi_core.training.loop import train
from corgi_core.training.metrics_log import read_metrics
from corgi_core.training.run_folder import TrainingResult

Row = dict[str, Any]
Measurement = dict[str, list[Row]]
"""Rows by table: "samples" (one a sampling), "timesteps" (one a timestep of the longest sampling),
"training" (one an evaluation while training), "references" (one for what needs no prior)."""

STUDY = "study"  # the name of its protocol
REFERENCES = "references"  # the table of what needs no prior
START = "z_T"  # a row of "timesteps": where the sampling starts; the others are of ẑ_0


@dataclass(frozen=True)
class Study:
    """What all arms share. A process that measures several of them reads the captions once.

    Memory holds the held-out captions that are measured on, and never the training embeddings.
    """

    dataset: Dataset
    images: ArrayStore
    texts: ArrayStore
    fitted: Mapping[int, GaussianBank]  # to the training images, as `fitted_banks` has them
    preset: Preset
    folder: Path
    device: Device = CPU  # where arms are trained and sampled
    left_out: frozenset[str] = frozenset()  # keys of held-out images that do not count

    @cached_property
    def captions(self) -> HeldOut:
        """The captions of at most `held_out` validation images: the study is to choose by."""
        wanted = self.preset.study.held_out
        return HeldOut.of(self.dataset, wanted, left_out=self.left_out, split=VALIDATION)

    @property
    def validation_keys(self) -> SplitKeys:
        """The validation images that count, by which trainings are watched."""
        return validation_keys(self.dataset, self.left_out)

    @cached_property
    def held_out(self) -> Captions:
        """Their embeddings and tokens."""
        rows, here = np.arange(len(self.captions)), self.device.here()
        return self.captions.read(rows, self.images, self.texts, here)

    def protocol(self, seed: int) -> Protocol:
        """How arms of a seed are measured, by the preset's steps, sampler and guidance.

        Where a table has columns of these, its rows say otherwise.
        """
        counts, spec, prior = self.dataset.counts, self.texts.spec, self.preset.prior
        among = counts[(counts["split"] == VALIDATION) & (counts["captioned"] > 0)]
        return Protocol(
            dataset=" + ".join(sorted(set(sources_of(among)))),
            data_version=self.dataset.digest,
            held_out_captions=len(self.captions),
            prior_steps=prior.num_steps,
            prior_sampler=prior.sampler,
            prior_guidance=prior.guidance,
            seed=seed,
            encoders=tuple(spec["names"]),
            clip=spec["encoder"],
            split=VALIDATION,
            left_out=len(self.left_out) or None,
        )

    def fitted_to_captions(self, captioned: KeySet, kappa: float) -> CaptionGaussians:
        """A Gaussian for every caption, fitted to those that may be used, once a process."""
        key = digest_of(captioned.digest, kappa)
        if key not in self._of_captions:
            settings = replace(self.preset.gaussians, kappa=kappa)
            self._of_captions[key], _ = fit_caption_gaussians(
                captioned, self.validation_keys, self.images, self.texts, self.fitted[1], settings
            )
        return self._of_captions[key]

    @cached_property
    def _of_captions(self) -> dict[str, CaptionGaussians]:
        return {}

    @cached_property
    def scorer(self) -> Scorer:
        """Scores embeddings of the held-out captions."""
        return Scorer(self.held_out.image, self.images.spec["encoder_dims"])

    def run_folder(self, arm: Arm) -> Path:
        """The arm's run folder, named by a digest of all that its training depends on."""
        preset = self.preset
        identity = digest_of(
            arm.about, asdict(preset.prior), asdict(preset.gaussians),
            asdict(preset.study.training), self.dataset.digest, self.images.digest,
            self.texts.digest, self.validation_keys.digest,
        )  # fmt: skip
        return self.folder / f"{arm.name}-{identity}"

    def measurement_file(self, plan: Plan) -> Path:
        """Where the measurement of the plan's arm is, or will be."""
        settings, run_folder = self.preset.study, self.run_folder(plan.arm)
        requested = digest_of(
            asdict(plan), settings.held_out, settings.spread_captions, settings.spread_samples,
            self.captions.digest,
        )  # fmt: skip
        return run_folder.parent / f"{run_folder.name}.{requested}.json"


def measure_arm(study: Study, plan: Plan) -> Measurement:
    """The arm's measurement: read from its file, or taken after training the arm."""
    path = study.measurement_file(plan)
    if path.exists():
        found: Measurement = read_json(path)
        return found
    prior, result = train_arm(study, plan.arm)
    about = plan.arm.about | {
        "k": prior.bank.k,
        "width": width_of(prior.bank, study.fitted[1]),
    }
    tables = {
        "samples": _sample_rows(study, prior, plan),
        "timesteps": _timestep_rows(study, prior, plan),
        "training": _training_rows(result),
    }
    measurement = {name: [about | row for row in rows] for name, rows in tables.items()}
    write_json(path, measurement)
    return measurement


def train_arm(study: Study, arm: Arm) -> tuple[PriorModel, TrainingResult[Any]]:
    """The arm's prior. A finished training is read, an interrupted one continues."""
    preset = study.preset
    captioned = caption_subset(study.dataset, arm.captions, arm.seed).of(study.dataset)
    bank = _bank(study, arm, captioned)
    prior = replace(preset.prior, **dict[str, Any](arm.settings))
    method = METHODS[arm.method]
    task = method.task(
        settings=prior,
        images=study.images,
        texts=study.texts,
        captioned=captioned,
        validation_keys=study.validation_keys,
        bank=bank,
    )
    settings = replace(preset.study.training, seed=arm.seed)
    if arm.snapshots:
        settings = replace(settings, checkpoint_every=gcd(*arm.snapshots))
    here = study.device.here()
    result = train(
        task, settings, study.run_folder(arm), device=here, name=arm.name,
        on_saved=saved_averages(arm.snapshots),
    )  # fmt: skip
    model = task.prior(result.model)
    model.precision = study.device.precision
    return model, result


def _bank(study: Study, arm: Arm, captioned: KeySet) -> GaussianBank | CaptionGaussians:
    """What the arm starts from; a caption's own Gaussian is fitted to the captions it may use."""
    start = arm.start
    if start.kind == CAPTIONS:
        return study.fitted_to_captions(captioned, start.kappa)
    bank = bank_of(start, study.fitted)
    return _learn(study, bank, arm) if start.kind == LEARNED else bank


def _learn(study: Study, fitted: GaussianBank, arm: Arm) -> GaussianBank:
    """The bank after equation (5), on all captioned training images."""
    gaussians = study.preset.gaussians
    task = BankTask(
        gaussians, study.images, study.texts,
        SplitKeys(study.dataset, TRAIN), study.validation_keys, fitted,
    )  # fmt: skip
    settings = replace(gaussians.learning, seed=arm.seed)
    result = train(
        task, settings, study.run_folder(arm) / "bank",
        device=study.device.here(), name=f"{arm.name}'s bank",
    )  # fmt: skip
    return result.model.to_bank().cpu()


def width_of(bank: GaussianBank | CaptionGaussians, one: GaussianBank) -> float:
    """The start's std in units of the embeddings' own, both root mean squares over coordinates.

    `one` is the one Gaussian that is fitted to the embeddings.
    """
    own, width = (float(each.std.square().mean().sqrt()) for each in (one, bank))
    return width / own


def _sample_rows(study: Study, prior: PriorModel, plan: Plan) -> Iterator[Row]:
    seed, settings = plan.arm.seed, study.preset.study
    some = torch.arange(min(settings.spread_captions, len(study.held_out)))
    folder = study.run_folder(plan.arm)
    for sampling in plan.samplings:
        way = autoguided(prior, folder, sampling.weak) if sampling.weak else prior
        row = asdict(sampling) | study.scorer.scores(_sampled(study, way, sampling, seed))
        if sampling in plan.spread:
            samples = [
                _sampled(study, way, sampling, _seed_of(seed, number), some)
                for number in range(settings.spread_samples)
            ]
            row |= spread(torch.stack(samples), study.held_out.image[some])
        yield row


def _timestep_rows(study: Study, prior: PriorModel, plan: Plan) -> Iterator[Row]:
    """Cosines to z_0: of the start z_T, then of every prediction ẑ_0 while sampling."""
    if not plan.timesteps:
        return
    seed = plan.arm.seed
    start = _starts(study, prior, seed)
    yield {"of": START, "timestep": TIMESTEPS, "cosine": study.scorer.cosine(start)}
    curve = CosineByTimestep(study.held_out.image, study.scorer.encoder_dims)
    _sampled(study, prior, Sampling(study.preset.study.steps[-1]), seed, callback=curve)
    for t, cosine in curve.averaged.items():
        yield {"of": "ẑ_0", "timestep": t, "cosine": cosine}


def _starts(study: Study, prior: PriorModel, seed: int) -> Tensor:
    """Where sampling the held-out captions starts, z_T [n, d], on the CPU.

    Tokens of a chunk of captions at a time are padded.
    """
    count = len(study.held_out)
    noise = torch.randn(count, prior.bank.width, generator=torch.Generator().manual_seed(seed))
    chunks = []
    for some in torch.split(torch.arange(count), CAPTIONS_AT_ONCE):
        tokens, attn_mask, text, _ = study.held_out.batch(some, prior.device)
        start = prior.bank.start(tokens, attn_mask, text).cond
        chunks.append(start.unwhiten(noise[some].to(prior.device)).cpu())
    return torch.cat(chunks)


def _training_rows(result: TrainingResult[Any]) -> Iterator[Row]:
    """Held-out cosine against training steps and seconds."""
    for entry in read_metrics(result.metrics_log):
        if "held_out_cosine" in entry:
            yield {name: entry[name] for name in ("step", "seconds", "held_out_cosine")}


def _sampled(
    study: Study,
    prior: PriorModel,
    sampling: Sampling,
    seed: int,
    rows: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Samples of the held-out captions, or of some `rows` of them, on the CPU.

    Tokens of a chunk of captions at a time are padded. `callback` is called as `PriorModel.sample`
    calls it, chunk by chunk.
    """
    rows = torch.arange(len(study.held_out)) if rows is None else rows
    chunks = []
    for some in torch.split(rows, CAPTIONS_AT_ONCE):
        tokens, attn_mask, text, _ = study.held_out.batch(some)
        z = prior.sample(
            tokens, attn_mask, text, num_steps=sampling.steps, guidance=sampling.guidance,
            sampler=sampling.sampler, seed=seed, sample_ids=some.tolist(),
            callback=callback,
        )  # fmt: skip
        chunks.append(z.cpu())
    return torch.cat(chunks)


def _seed_of(seed: int, number: int) -> int:
    """A seed for each of several samples of one caption; none is the seed of an arm."""
    return 1000 * (seed + 1) + number
