"""The training of a prior: equation (4) on stored embeddings, several noise samples a caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from corgi_core.config import PriorSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.keys import KeySet
from corgi_core.data.ragged import RaggedArray
from corgi_core.diffusion.schedule import Schedule, weighted_error
from corgi_core.encoders.caption_tokens import Batch as TokenBatch
from corgi_core.encoders.caption_tokens import CaptionTokens
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.gaussians.caption_conditioned import CAPTIONS, CaptionGaussians
from corgi_core.prior.contrast import contrastive_error
from corgi_core.prior.model import PriorModel, part_of, tensors_of
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.training.randomness import StepRandom
from corgi_core.training.rows import ChosenRows
from corgi_core.training.task import ALONE, Task
from corgi_core.training.waiting import Meeting

LOSSES = ("simplified", "kl")
HELD_OUT_STEPS = 4  # of the sampler, for the cosine logged while training
HELD_OUT_CAPTIONS = 512


@dataclass
class Captions:
    """Rows of captions with their images' embeddings, in memory.

    tokens ragged, n rows of vectors of width w; text [n, d], image [n, d].
    """

    tokens: RaggedArray
    text: Tensor
    image: Tensor

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: Tensor) -> Captions:
        """The given rows, of long."""
        return Captions(self.tokens.take(rows.numpy()), self.text[rows], self.image[rows])

    def batch(
        self, rows: Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens (float32, padded to the longest caption), mask, text, image of the given rows."""
        tokens, mask = padded(self.tokens.take(rows.numpy()), device)
        return tokens, mask, self.text[rows].to(device), self.image[rows].to(device)


class CaptionBatch(NamedTuple):
    """Training captions: their tokens, and text and image embeddings [b, d] as stored."""

    tokens: TokenBatch
    text: Tensor
    image: Tensor


def check_encoders(images: ArrayStore, texts: ArrayStore) -> None:
    """Raise CorgiError unless images and captions were embedded by the same CLIP encoders."""
    if images.spec["encoder"] != texts.spec["encoder"]:
        raise CorgiError(
            f"images were embedded by CLIP {images.spec['encoder']}, "
            f"captions by {texts.spec['encoder']}",
            "materialise image_embeddings and text_embeddings with the same clip_encoder",
        )


@dataclass
class PriorTask(Task[PriorNetwork]):
    """The training of one prior.

    It starts from random weights, or from the averaged weights of a `parent`. Gaussians that were
    fitted anew, in another order or number, start as the parent's nearest did.
    """

    settings: PriorSettings
    images: ArrayStore
    texts: ArrayStore
    captioned: KeySet  # the training images whose captions may be used
    validation_keys: KeySet
    bank: GaussianBank | CaptionGaussians
    parent: PriorModel | None = field(default=None, kw_only=True)
    _schedule: Schedule = field(default_factory=Schedule.linear, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.settings.loss not in LOSSES:
            raise CorgiError(
                f"there is no loss {self.settings.loss!r} of a prior",
                f"set prior.loss to one of {', '.join(LOSSES)}",
            )
        if sum(self.images.spec["encoder_dims"]) != self.bank.width:
            raise CorgiError(
                f"the bank is {self.bank.width} wide, the embeddings {self.images.spec['width']}",
                "fit the bank again on these embeddings",
            )
        check_encoders(self.images, self.texts)
        if self.parent is not None:
            self._check_parent(self.parent)

    def _check_parent(self, parent: PriorModel) -> None:
        """Raise CorgiError unless its weights fit this network, these encoders and these texts."""
        wanted = {**self.texts.spec, **asdict(self.shape()), "Gaussian of": self.bank.of}
        found = {**parent.encoders, **asdict(parent.network.shape), "Gaussian of": parent.bank.of}
        for name in sorted((wanted.keys() | found.keys()) - {"gaussians"}):
            if found.get(name) != wanted.get(name):
                raise CorgiError(
                    f"the prior to continue from has the {name} {found.get(name)}, "
                    f"wanted is {wanted.get(name)}",
                    "continue from a prior of the present settings and embeddings, or train from "
                    "scratch",
                )

    def prepare_data(self, folder: Path) -> None:
        """Count the training captions once: others read the counts. Load a text encoder."""
        self._tokens.prepare()
        self.training.prepare(folder, "training-captions")

    @cached_property
    def training(self) -> ChosenRows:
        """All captions of the captioned training images."""
        return ChosenRows(self.texts, self.captioned)

    def held_out(self, device: torch.device | str = "cpu") -> Captions:
        """One caption for each held-out image: of at most 512 images, evenly spaced.

        Tokens that are not stored are made on `device`, once.
        """
        if not self._held_out:
            self._held_out.append(self._read_held_out(device))
        return self._held_out[0]

    @cached_property
    def _held_out(self) -> list[Captions]:
        """What `held_out` has read."""
        return []

    def _read_held_out(self, device: torch.device | str) -> Captions:
        captions = ChosenRows(self.texts, self.validation_keys, first_only=True)
        return self._read(captions, HELD_OUT_CAPTIONS, device)

    def spaced_captions(self, most: int) -> Captions:
        """At most so many training captions, evenly spaced."""
        return self._read(self.training, most, "cpu")

    def _read(self, captions: ChosenRows, most: int, device: torch.device | str) -> Captions:
        rows = captions.spaced(most)
        stored = captions.gather_ragged(rows, self.texts, self._tokens.array)
        text, image = captions.gather(rows, (self.texts, "text"), (self.images, "image"))
        return Captions(self._tokens.ragged(stored, device), text.float(), image.float())

    @property
    def rows(self) -> int:
        """The number of training captions."""
        if not (count := len(self.training)):
            raise CorgiError(
                "no training image of this caption subset has a caption",
                "choose a larger caption subset, or ingest captions",
            )
        return count

    @property
    def compares_samples(self) -> bool:
        """Whether a contrastive term is part of the loss."""
        return self.settings.contrast > 0

    @property
    def shard_rows(self) -> list[int]:
        """The number of training captions in each shard."""
        return self.training.shard_rows

    def shape(self) -> PriorShape:
        """The network's sizes, from the settings and the stores."""
        settings, spec = self.settings, self.texts.spec
        return PriorShape(
            embedding_width=self.bank.width, text_width=spec["text_width"],
            text_tokens=spec["text_tokens"], gaussians=self.bank.k,
            width=settings.width, layers=settings.layers, heads=settings.heads,
        )  # fmt: skip

    def build(self) -> PriorNetwork:
        """An untrained network; one that predicts a residual begins at 0."""
        network = PriorNetwork(self.shape(), self.settings.checkpoint_activations)
        if self.bank.of == CAPTIONS:
            nn.init.zeros_(network.head.weight)
            nn.init.zeros_(network.head.bias)
        return network

    def stored(self, model: PriorNetwork) -> dict[str, Tensor]:
        """The network and the bank, as `PriorModel` saves them."""
        return tensors_of(model, self.bank)

    def restore(self, model: PriorNetwork, tensors: Mapping[str, Tensor]) -> None:
        """Set the network's weights; runs that Corgi 0.1 has finished hold nothing else."""
        model.load_state_dict(part_of(tensors, "network") or tensors)

    def prepare(self, model: PriorNetwork) -> None:
        """Set the weights of the parent, if there is one."""
        if self.parent is None:
            return
        weights = dict(self.parent.network.state_dict())
        distances = torch.cdist(self.bank.means.cpu(), self.parent.bank.means.cpu())
        weights["gaussian.weight"] = weights["gaussian.weight"][distances.argmin(dim=1)]
        model.load_state_dict(weights)

    def batch(self, rows: Tensor, random: StepRandom) -> CaptionBatch:
        """The captions of rows [b] with their images' embeddings."""
        array = self._tokens.array
        tokens = self._tokens.batch(self.training.gather_ragged(rows, self.texts, array))
        return CaptionBatch(
            tokens, *self.training.gather(rows, (self.texts, "text"), (self.images, "image"))
        )

    def loss(self, model: nn.Module, batch: CaptionBatch, random: StepRandom) -> dict[str, Tensor]:
        """Equation (4), mean over `noise_samples` pairs (t, noise) a caption, and the contrast."""
        tokens, attn_mask = self._tokens.tokens_of(batch.tokens)
        text, z_0 = batch.text.float(), batch.image.float()
        samples, schedule = self.settings.noise_samples, self._schedule
        bank = self.bank_in(model, random.device)
        start = bank.start(tokens, attn_mask, text, batch.image)
        t = random.integers(schedule.num_timesteps, samples)
        noise = random.normal(samples, bank.width)
        cond_mask = random.uniform() >= self.settings.cond_dropout
        gaussians = start.where(cond_mask).of_several()
        z_0 = z_0.unsqueeze(1)
        u_0 = gaussians.whiten(z_0)
        u_t = schedule.add_noise(u_0, noise, t)
        shrunk = gaussians.unwhiten(schedule.shrink(u_t, t))
        predicted = model(tokens, attn_mask, text, cond_mask, shrunk, t, start.c).float()
        if start.residual:
            predicted = shrunk + predicted
        if self.settings.loss == "kl":
            error = weighted_error(u_0, gaussians.whiten(predicted), schedule.kl_weights(t))
        else:
            weights = schedule.p2_weights(t, self.settings.p2_gamma)
            error = weighted_error(z_0, predicted, weights)
        if not self.compares_samples:
            return {"loss": error}
        apart = contrastive_error(predicted, z_0.squeeze(1), cond_mask, bank.encoder_dims)
        return {"loss": error + self.settings.contrast * apart, "contrast": apart}

    def prior(self, model: PriorNetwork) -> PriorModel:
        """The prior of a network of this training, on the network's device."""
        bank = self.bank_in(model, model.null_text.device)
        return PriorModel(model, bank, self.settings, self.texts.spec, card={})

    def evaluate(self, model: PriorNetwork, workers: Meeting = ALONE) -> dict[str, float]:
        """Mean cosine of sampled to true embeddings of held-out images, averaged over encoders."""
        device = model.null_text.device
        if not len(held_out := self.held_out(device)):
            return {}
        tokens, attn_mask, text, image = held_out.batch(torch.arange(len(held_out)))
        sampled = self.prior(model).sample(tokens, attn_mask, text, num_steps=HELD_OUT_STEPS)
        cosine = mean_encoder_cosine(sampled, image.to(device), self.bank.encoder_dims)
        return {"held_out_cosine": float(cosine.mean())}

    @cached_property
    def _tokens(self) -> CaptionTokens:
        return CaptionTokens(self.texts)

    def bank_in(self, model: nn.Module, device: torch.device) -> GaussianBank | CaptionGaussians:
        """The bank that a network of this training starts from, on its device: the task's own."""
        return self.bank_on(device)

    def bank_on(self, device: torch.device) -> GaussianBank | CaptionGaussians:
        """The bank on a device, copied there once."""
        if device not in self._banks:
            self._banks[device] = self.bank.on(device)
        return self._banks[device]

    @cached_property
    def _banks(self) -> dict[torch.device, GaussianBank | CaptionGaussians]:
        """The bank on the devices on which it was needed."""
        return {}
