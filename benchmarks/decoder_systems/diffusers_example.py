"""What diffusers' example of training a UNet does in a step, for the cascade's UNets.

It follows examples/unconditional_image_generation without accelerate: a DataLoader reads image
files through torchvision's transforms, DDPMScheduler adds noise, the error is squared, and torch's
AdamW and EMAModel update. Convolutions have channels first. The UNets and their conditions are
ours: noise levels, and an embedding, which a frozen CLIP computes from the batch in every step, as
an example conditioned on images would. The variant "cached" is given it. Each stage is a run of the
example by itself; one step here is a step of each, and each reads its own files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.decoder_systems.system import Case
from corgi_core.config import preset_named
from corgi_core.decoders.cascade.network import (
    CascadeNetwork,
    CascadeShape,
    downsampled,
    upsampled,
)
from corgi_core.decoders.cascade.unet import LEVEL_FEATURES, Stage
from corgi_core.diffusion.schedule import timestep_features
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.training.precision import autocast


class Files(Dataset[Tensor]):
    """Image files as the example prepares them: float32 [3, s, s] in −1 … 1."""

    def __init__(self, folder: Path, size: int) -> None:
        self._paths = sorted(folder.glob("*.png"))
        self._prepared = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self._paths[number]) as picture:
            prepared: Tensor = self._prepared(picture.convert("RGB"))
        return prepared


class Example:
    """One run of the example: a stage's UNet."""

    def __init__(self, case: Case, stage: Stage, size: int, low: int | None) -> None:
        self._low = low
        self.stage = stage.train()
        self.stage.unet.to(memory_format=torch.contiguous_format)
        self._batches = _endless(DataLoader(Files(case.pictures, size), case.batch, shuffle=True))
        self._scheduler = DDPMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
        )  # fmt: skip
        self._optimizer = torch.optim.AdamW(self.stage.parameters(), lr=1e-6, weight_decay=1e-6)
        self._average = EMAModel(self.stage.parameters(), use_ema_warmup=True)
        self._precision = case.precision

    def batch(self) -> Tensor:
        return next(self._batches)

    def step(self, pictures: Tensor, z: Tensor) -> None:
        noise, t = torch.randn_like(pictures), torch.randint(1000, (len(pictures),))
        noisy = self._scheduler.add_noise(pictures, noise, t)
        cond = z
        if self._low is not None:
            low = downsampled(pictures, self._low)
            level = torch.rand(len(pictures))
            beside = self._scheduler.add_noise(low, torch.randn_like(low), (level * 999).long())
            noisy = torch.cat([noisy, upsampled(beside, pictures.shape[-1])], dim=1)
            cond = torch.cat([z, timestep_features(level * 1000, LEVEL_FEATURES)], dim=1)
        with autocast(self._precision, "cpu"):
            vectors = None if self.stage.to_vectors is None else self.stage.to_vectors(z)
            predicted = self.stage.unet(noisy, t, vectors, class_labels=cond).sample
        loss = F.mse_loss(predicted.float(), self._scheduler.get_velocity(pictures, noise, t))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.stage.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.step(self.stage.parameters())
        loss.item()  # which is logged


class DiffusersExample:
    """The example for every stage of the preset's cascade, one after another."""

    def __init__(self, case: Case, clip_in_step: bool) -> None:
        preset = preset_named(case.preset)
        settings = preset.cascade
        network = CascadeNetwork(CascadeShape.of(settings, preset.encoders.width))
        sizes = [stage.size for stage in settings.stages]
        self._examples = [
            Example(case, stage, size, low)
            for stage, size, low in zip(network.stages, sizes, [None, *sizes[:-1]], strict=True)
        ]
        self._clip = ClipEnsemble.load(case.stores / "clip") if clip_in_step else None
        self._cached = torch.randn(case.batch, preset.encoders.width)

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def step(self) -> None:
        for example in self._examples:
            pictures, z = example.batch(), self._cached
            if self._clip is not None:
                z = self._clip.encode_images((pictures + 1) / 2)
            example.step(pictures, z)


def _endless(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from (batch for batch in loader if len(batch) == loader.batch_size)
