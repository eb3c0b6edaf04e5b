"""What the training of all decoders shares: images and their embeddings, without captions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from corgi_core.config import DecoderSettings, TrainingSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.balance import repeats_of
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import KeySet
from corgi_core.data.mapped import mapped_arrays
from corgi_core.decoders.decoder import Decoder
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.io.files import atomic_file, digest_of
from corgi_core.streaming.resizing import check_stored_size
from corgi_core.streaming.squares import Squares
from corgi_core.training.randomness import StepRandom
from corgi_core.training.rows import ChosenRows
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

HELD_OUT_IMAGES = 256
SPACED = 2**16  # training images, at most, of whose embeddings statistics are taken
MEASURED_PIXELS = 2**24  # of decoded held-out images that are in memory at once
S = TypeVar("S", bound=DecoderSettings)
N = TypeVar("N", bound=nn.Module)


class PictureBatch(NamedTuple):
    """Training images: pixels uint8 [b, 3, s, s], and their embeddings z [b, d] as stored."""

    pixels: Tensor
    z: Tensor


@dataclass(frozen=True)
class FineTuning:
    """A decoder that training starts from, and the training images that it continues on."""

    start: Decoder
    keys: KeySet


@dataclass
class DecoderTask(Task[N], Generic[S, N]):
    """Training of a decoder (a `Task` of the training loop) on all training images.

    `pixels` holds "pixels", uint8 [n, 3, p, p], where p is the settings' image_size or more; they
    are scaled down to `pixel_size` as they are read. Where they are decoded online, `dataset` has
    the images' files. `embeddings` holds "image", [n, d]. A training
    row is an image; with the setting `balanced`, an image without near twins has several rows.
    """

    settings: S
    pixels: ArrayStore
    embeddings: ArrayStore
    train_keys: KeySet
    validation_keys: KeySet
    tuning: FineTuning | None = field(default=None, kw_only=True)
    # no part of a run's identity: the pixels' digest names its images
    dataset: Dataset | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        check_stored_size(self.pixels.spec["size"], self.settings.image_size, "decoder")
        if self.tuning is not None:
            self._check_start(self.tuning.start)

    @abstractmethod
    def decoder(self, model: N, card: Mapping[str, Any]) -> Decoder:
        """The trained model as a decoder."""

    def parts(self) -> Mapping[str, DecoderTask[S, N]]:
        """The trainings that make the decoder, one after the other, by name; "" where one does."""
        return {"": self}

    def assembled(self, models: Sequence[N], card: Mapping[str, Any]) -> Decoder:
        """The decoder of the models that the parts have trained, in their order."""
        (model,) = models
        return self.decoder(model, card)

    @property
    def training_settings(self) -> TrainingSettings:
        """How this part is trained."""
        return self.settings.training

    @property
    def pixel_size(self) -> int:
        """Pixels to a side s of the images that this part learns from."""
        return self.settings.image_size

    def prepare_data(self, folder: Path) -> None:
        """Count the images, and look for near twins, once: others read what was found."""
        self.images.prepare(folder, "training-images")
        if self.settings.balanced:
            of = digest_of(self.embeddings.digest, self.train_keys.digest)
            path = folder / f"repeats-{of}.safetensors"
            if not path.exists():
                with atomic_file(path) as temporary:
                    save_file({"repeats": self.repeats}, str(temporary))
            self.repeats = mapped_arrays(path, None)["repeats"]
        self.training.prepare(folder, "training-rows")

    def prepare(self, model: N) -> None:
        """Set statistics of the training images, or all weights of the decoder to continue from."""
        if self.tuning is None:
            self.fit(model)
        else:
            start = self.start_of(self.tuning.start)
            self.decoder_network(model).load_state_dict(start.state_dict())

    def fit(self, model: N) -> None:
        """Set what is computed from the training images, not learned."""

    def decoder_network(self, model: N) -> nn.Module:
        """The part of the trained model that is the decoder's network."""
        return model

    def start_of(self, start: Decoder) -> nn.Module:
        """What of the decoder to continue from has this model's weights."""
        return start.network

    @property
    def rows(self) -> int:
        """Number of training rows."""
        return len(self.training)

    @property
    def shard_rows(self) -> list[int]:
        """Number of training rows in each shard."""
        return self.training.shard_rows

    @property
    def image_count(self) -> int:
        """Number of images that are trained on."""
        if self.tuning is None:
            return len(self.images)
        return len(ChosenRows(self.embeddings, self.tuning.keys))

    def batch(self, rows: Tensor, random: StepRandom) -> Any:
        """The images of rows [b]."""
        return self.pictures(self.training, rows)

    def evaluate(self, model: N, workers: Meeting = ALONE) -> dict[str, float]:
        """Root mean square error of decoded held-out embeddings, of pixel values in 0…1."""
        if not len(self.held_out[0]):
            return {}
        decoder, (pixels, z) = self.decoder(model, card={}), self.held_out
        at_once = max(1, MEASURED_PIXELS // pixels[0, 0].numel())

        def squares(rows: Tensor) -> float:
            decoded = decoder.decode(z[rows], sample_ids=rows.tolist())
            return float((decoded - pixels[rows].to(decoded) / 255).square().sum())

        total = sum(workers.each(squares, torch.split(torch.arange(len(z)), at_once)))
        return {"held_out_pixel_error": math.sqrt(total / pixels.numel())}

    def perturbed(self, z: Tensor, random: StepRandom) -> Tensor:
        """Embeddings z [n, d], some of them with noise, so that they are as uncertain as a prior's.

        A share `settings.perturbed` gets a cosine between `settings.min_cosine` and 1 to the true
        embedding; the others stay as they are.
        """
        cosine = 1 - (1 - self.settings.min_cosine) * random.uniform()
        cosine = torch.where(random.uniform() < self.settings.perturbed, cosine, 1.0)
        return perturbed_embeddings(z, cosine, random.normal(z.shape[1]), self.encoder_dims)

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """d_b of the CLIP encoders."""
        return tuple(self.embeddings.spec["encoder_dims"])

    @cached_property
    def images(self) -> ChosenRows:
        """The training images, each once."""
        return ChosenRows(self.embeddings, self.train_keys)

    @cached_property
    def training(self) -> ChosenRows:
        """The training rows: the images that are trained on, some of them several times."""
        if self.tuning is None and not self.settings.balanced:
            return self.images
        return ChosenRows(self.embeddings, self.train_keys, repeats=self._repeats_in)

    @cached_property
    def repeats(self) -> NDArray[np.uint8]:
        """How often a `balanced` epoch uses each training image, uint8 [n], by near twins."""
        return repeats_of(lambda rows: self._z(torch.from_numpy(rows)).numpy(), len(self.images))

    def _repeats_in(self, shard: int) -> NDArray[np.uint8]:
        """How often an epoch uses each training image of a shard; those not tuned on, never."""
        count = int(self.images.counts[shard])
        repeats = np.ones(count, np.uint8)
        if self.settings.balanced:
            first = int(self.images.counts[:shard].sum())
            repeats = self.repeats[first : first + count]
        if self.tuning is not None:
            keys = self.images.shard_keys(shard)
            tuned = self.tuning.keys.among(self.embeddings.shards[shard], keys)
            repeats = np.where(tuned, repeats, 0).astype(np.uint8)
        return repeats

    @property
    def spaced_embeddings(self) -> Tensor:
        """float32 [n, d] of evenly spaced training images, whose statistics stand for all."""
        return self._z(self.images.spaced(SPACED)).float()

    def _z(self, rows: Tensor) -> Tensor:
        """The embeddings [b, d] of training images [b], as stored."""
        (z,) = self.images.gather(rows, (self.embeddings, "image"))
        return z

    def pictures(self, images: ChosenRows, rows: Tensor) -> PictureBatch:
        """The given rows [b] of some images."""
        (z,) = images.gather(rows, (self.embeddings, "image"))
        return PictureBatch(images.gather_squares(rows, self._squares, self.pixel_size), z)

    @property
    def squares(self) -> Squares | None:
        """The images that `batch` reads."""
        return self._squares

    @cached_property
    def _squares(self) -> Squares:
        return Squares(self.pixels, self.dataset)

    @cached_property
    def held_out(self) -> PictureBatch:
        """Evenly spaced held-out images, at most 256."""
        images = ChosenRows(self.embeddings, self.validation_keys)
        pixels, z = self.pictures(images, images.spaced(HELD_OUT_IMAGES))
        return PictureBatch(pixels, z.float())

    def _check_start(self, start: Decoder) -> None:
        wanted = (self.settings.kind, self.settings.image_size, self.embeddings.spec["encoder"])
        found = (start.kind, start.settings.image_size, start.encoders["encoder"])
        for what, here, given in zip(("kind", "image_size", "CLIP"), wanted, found, strict=True):
            if here != given:
                raise CorgiError(
                    f"the decoder to fine-tune has the {what} {given}, wanted is {here}",
                    "fine-tune a decoder of the present preset and embeddings",
                )


def perturbed_embeddings(
    z: Tensor, cosine: Tensor, noise: Tensor, encoder_dims: tuple[int, ...]
) -> Tensor:
    """Embeddings with noise, at about a given cosine to the true ones.

    A prior's embedding is only near the true one. A decoder that was trained on such embeddings
    samples the likeliest image of them; one that was not samples none.

    Args:
        z: Embeddings [n, d], whose slice of every encoder has norm √d_b.
        cosine: The cosine to z, [n] in [0, 1].
        noise: Standard normal [n, d].
        encoder_dims: d_b of the encoders.

    Returns:
        Embeddings [n, d], whose slice of every encoder has norm √d_b.
    """
    share = cosine.unsqueeze(1)
    return scale_per_encoder(share * z + (1 - share.square()).sqrt() * noise, encoder_dims)
