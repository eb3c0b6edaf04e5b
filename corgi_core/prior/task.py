"""The training of a prior: equation (4) on stored embeddings, several noise samples a caption."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from corgi_core.config import PriorSettings
from corgi_core.data.arrays import ArrayStore
from corgi_core.data.ragged import RaggedArray
from corgi_core.data.subsets import CaptionSubset
from corgi_core.diffusion.schedule import Schedule, weighted_error
from corgi_core.encoders.similarity import mean_encoder_cosine
from corgi_core.encoders.tokens import padded
from corgi_core.errors import CorgiError
from corgi_core.gaussians.bank import GaussianBank
from corgi_core.prior.model import PriorModel
from corgi_core.prior.network import PriorNetwork, PriorShape
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import Task

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

    @classmethod
    def read(
        cls, images: ArrayStore, texts: ArrayStore, keys: set[str], one_each: bool = False
    ) -> Captions:
        """All captions of the images in `keys`, in the text store's order.

        With `one_each` every image comes once, with the caption that stands for it: its first.
        """
        if images.spec["encoder"] != texts.spec["encoder"]:
            raise CorgiError(
                f"images were embedded by CLIP {images.spec['encoder']}, "
                f"captions by {texts.spec['encoder']}",
                "materialise image_embeddings and text_embeddings with the same clip_encoder",
            )
        rows = texts.first_rows_among(keys) if one_each else texts.rows_among(keys)
        image_rows = images.rows_of(texts.keys[rows])
        return cls(
            tokens=texts.read_ragged("tokens").take(rows),
            text=torch.from_numpy(texts.read("text")[rows].astype(np.float32)),
            image=torch.from_numpy(images.read("image")[image_rows].astype(np.float32)),
        )

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


@dataclass
class PriorTask(Task[PriorNetwork]):
    """The training of one prior."""

    settings: PriorSettings
    images: ArrayStore
    texts: ArrayStore
    captioned: CaptionSubset  # the training images whose captions may be used
    test_keys: tuple[str, ...]
    bank: GaussianBank
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

    @cached_property
    def training(self) -> Captions:
        """All captions of the captioned training images."""
        return Captions.read(self.images, self.texts, set(self.captioned.keys))

    @cached_property
    def held_out(self) -> Captions:
        """One caption for each held-out image: of at most 512 images, evenly spaced."""
        every = Captions.read(self.images, self.texts, set(self.test_keys), one_each=True)
        spread = torch.linspace(0, len(every) - 1, min(len(every), HELD_OUT_CAPTIONS))
        return every[spread.round().long()]

    @property
    def rows(self) -> int:
        """The number of training captions."""
        count = len(self.texts.rows_among(self.captioned.keys))
        if not count:
            raise CorgiError(
                "no training image of this caption subset has a caption",
                "choose a larger caption subset, or ingest captions",
            )
        return count

    def shape(self) -> PriorShape:
        """The network's sizes, from the settings and the stores."""
        settings, spec = self.settings, self.texts.spec
        return PriorShape(
            embedding_width=self.bank.width, text_width=spec["text_width"],
            text_tokens=spec["text_tokens"], gaussians=self.bank.k,
            width=settings.width, layers=settings.layers, heads=settings.heads,
        )  # fmt: skip

    def build(self) -> PriorNetwork:
        """An untrained network."""
        return PriorNetwork(self.shape(), self.settings.checkpoint_activations)

    def loss(self, model: nn.Module, rows: Tensor, random: StepRandom) -> dict[str, Tensor]:
        """Equation (4), mean over `noise_samples` pairs (t, noise) a caption, for rows [b]."""
        tokens, attn_mask, text, z_0 = self.training.batch(rows, random.device)
        samples, schedule = self.settings.noise_samples, self._schedule
        bank = self._bank_on(random.device)
        c = bank.assign(text)
        z_0, gaussians = z_0.unsqueeze(1), bank.gaussians(c.unsqueeze(1))
        u_0 = gaussians.whiten(z_0)
        t = random.integers(schedule.num_timesteps, samples)
        u_t = schedule.add_noise(u_0, random.normal(samples, bank.width), t)
        cond_mask = random.uniform() >= self.settings.cond_dropout
        shrunk = gaussians.unwhiten(schedule.shrink(u_t, t))
        predicted = model(tokens, attn_mask, text, cond_mask, shrunk, t, c).float()
        if self.settings.loss == "kl":
            error = weighted_error(u_0, gaussians.whiten(predicted), schedule.kl_weights(t))
            return {"loss": error}
        weights = schedule.p2_weights(t, self.settings.p2_gamma)
        return {"loss": weighted_error(z_0, predicted, weights)}

    def evaluate(self, model: PriorNetwork) -> dict[str, float]:
        """Mean cosine of sampled to true embeddings of held-out images, averaged over encoders."""
        if not len(self.held_out):
            return {}
        device = model.null_text.device
        prior = PriorModel(model, self._bank_on(device), self.settings, self.texts.spec, card={})
        tokens, attn_mask, text, image = self.held_out.batch(torch.arange(len(self.held_out)))
        sampled = prior.sample(tokens, attn_mask, text, num_steps=HELD_OUT_STEPS)
        cosine = mean_encoder_cosine(sampled, image.to(device), self.bank.encoder_dims)
        return {"held_out_cosine": float(cosine.mean())}

    def _bank_on(self, device: torch.device) -> GaussianBank:
        if device not in self._banks:
            self._banks[device] = self.bank.on(device)
        return self._banks[device]

    @cached_property
    def _banks(self) -> dict[torch.device, GaussianBank]:
        """The bank on the devices on which it was needed."""
        return {}
