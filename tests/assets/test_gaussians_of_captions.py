"""Gaussians that are learned of, or fitted to, captions know those that their prior reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import torch

from assets.models import prior
from assets.versions import settled
from corgi_core.config import Preset, TrainingSettings
from corgi_core.config.variants import SHIFTED_TEXT
from corgi_core.data.keys import KeySet, SplitKeys, validation_keys
from corgi_core.data.subsets import caption_subset
from corgi_core.evaluation.split_overlap import COLUMNS, SplitOverlap
from corgi_core.gaussians.caption_conditioned import CaptionGaussians
from corgi_core.gaussians.fit import fit_bank
from corgi_core.gaussians.learned import BankTask
from corgi_core.gaussians.stream import EmbeddingStream
from corgi_core.prior.caption_fit import fit_caption_gaussians
from corgi_core.prior.model import PriorModel
from corgi_core.training.loop import train
from orchestration.partitions import Partitions
from orchestration.resources.compute import Compute
from orchestration.resources.tracking import MLflow
from orchestration.resources.trainer import Trainer
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings
from tests.helpers.small_study import BLOCKS, PRESET, dataset, stores

pytestmark = pytest.mark.integration  # trains, and MLflow records it

VARIANT, SUBSET = "shifted-k2-learned", "10%"
SHORT = TrainingSettings(
    steps=3, batch_size=4, learning_rate=1e-2, warmup_steps=1, ema_decay=0.5, precision="fp32"
)


def test_the_bank_of_a_caption_subset_is_learned_from_its_captions_alone(tmp_path: Path) -> None:
    preset = replace(
        PRESET,
        variants=(VARIANT,),
        prior=replace(PRESET.prior, training=SHORT),
        gaussians=replace(PRESET.gaussians, learning=SHORT),
    )
    images = dataset(tmp_path)
    image_embeddings, text_embeddings = stores(tmp_path, images)
    training = EmbeddingStream.of_split(images, image_embeddings, "train")
    fitted, _ = fit_bank(training, 2, BLOCKS, preset.gaussians)
    subset = caption_subset(images, 0.1, 0)

    def learned(from_: KeySet) -> torch.Tensor:
        task = BankTask(
            preset.gaussians, image_embeddings, text_embeddings, from_,
            SplitKeys(images, "test"), fitted,
        )  # fmt: skip
        return train(task, SHORT, tmp_path / from_.digest).model.to_bank().means

    found = _materialised(
        preset, tmp_path / "home", images=images, image_embeddings=image_embeddings,
        text_embeddings=text_embeddings, caption_subset=subset, gaussian_bank=fitted,
        split_overlap=_left_out([]),
    )  # fmt: skip
    assert torch.equal(found.bank.means, learned(subset.of(images)))
    assert not torch.equal(found.bank.means, learned(SplitKeys(images, "train")))
    assert not torch.equal(found.bank.means, fitted.means)
    assert found.card["data_versions"]["gaussian_bank"] == fitted.digest


def test_every_caption_has_a_gaussian_fitted_to_the_captions_of_the_subset(tmp_path: Path) -> None:
    """And validation images with near twins do not choose its penalty."""
    preset = replace(PRESET, variants=(SHIFTED_TEXT,), prior=replace(PRESET.prior, training=SHORT))
    images = dataset(tmp_path)
    image_embeddings, text_embeddings = stores(tmp_path, images)
    training = EmbeddingStream.of_split(images, image_embeddings, "train")
    of_all, subset = fit_bank(training, 1, BLOCKS)[0], caption_subset(images, 0.1, 0)

    _, *left_out = sorted(images.keys("validation"))

    def fitted(captioned: KeySet, without: Sequence[str] = left_out) -> CaptionGaussians:
        return fit_caption_gaussians(
            captioned, validation_keys(images, without), image_embeddings, text_embeddings, of_all,
            preset.gaussians,
        )[0]  # fmt: skip

    found = _materialised(
        preset, tmp_path / "home", images=images, image_embeddings=image_embeddings,
        text_embeddings=text_embeddings, caption_subset=subset, gaussian_bank=of_all,
        split_overlap=_left_out(left_out),
    )  # fmt: skip
    assert found.bank.digest == fitted(subset.of(images)).digest
    assert found.bank.digest != fitted(SplitKeys(images, "train")).digest
    assert found.bank.digest != fitted(subset.of(images), ()).digest
    assert isinstance(found.bank, CaptionGaussians)
    assert torch.equal(found.bank.means, of_all.means)


def _left_out(keys: Sequence[str]) -> SplitOverlap:
    """An overlap that leaves out these validation images."""
    pairs = pd.DataFrame([{"key": key, "split": "validation"} for key in keys], columns=COLUMNS)
    return SplitOverlap({"test": 0, "validation": 30}, pairs)


class Given(dg.IOManager):
    """Gives the inputs by their assets' names."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """The output is taken from the run."""

    def load_input(self, context: dg.InputContext) -> Any:
        return self.inputs[context.asset_key.to_user_string()]


def _materialised(preset: Preset, home: Path, **inputs: Any) -> PriorModel:
    """The prior, materialised from these inputs."""
    settings = replace(Settings.from_environment({"CORGI_HOME": str(home)}), preset=preset)
    workspace, partitions = Workspace.of(settings), Partitions.of(preset)
    [variant] = preset.variants
    compute, mlflow = Compute(num_workers=0), MLflow.of(settings)
    partitioned = {
        "caption_subset": partitions.caption_subsets, "gaussian_bank": partitions.variants
    }  # fmt: skip
    upstream = [dg.AssetSpec(name, partitions_def=partitioned.get(name)) for name in inputs]
    done = dg.materialize(
        [*upstream, settled(prior, preset)],
        selection=["prior"],
        partition_key=f"{SUBSET}|{variant}",
        resources={
            "io_manager": Given(inputs),
            "workspace": workspace,
            "trainer": Trainer(workspace=workspace, compute=compute, mlflow=mlflow),
        },
    )
    model: PriorModel = done.output_for_node("prior")
    return model
