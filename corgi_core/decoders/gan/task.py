"""Training of the GAN: an adversarial loss, and contrastive losses by CLIP and the discriminator.

    L_G = −E log σ(D(G)) + λ_c L_clip(G) + λ_l L_layout(G) + λ_s L_sem(G) + λ_p · path
    L_D = −E log σ(D(x)) − E log(1 − σ(D(G))) + λ_s L_sem(x) + γ/2 · R1

L_clip and L_sem are τ times the contrastive loss within the batch, between the embeddings and
CLIP's embeddings of the generated images, or the discriminator's semantic features (Lafite, section
3.3; there only images are negatives, here embeddings too, as in CLIP). CLIP gets images that are
moved and relit a little, as in its own training, so that patterns of single pixels do not please
it. L_layout, which Lafite does not have, learns the layout of colours within hundreds of steps; at
16 pixels it has no influence on details. The regularisers are lazy: computed every so many steps,
and multiplied by that number (Karras et al. 2020, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corgi_core.config import GanSettings
from corgi_core.decoders.decoder import Decoder, signed
from corgi_core.decoders.gan.augment import NUMBERS
from corgi_core.decoders.gan.decoder import GanDecoder
from corgi_core.decoders.gan.discriminator import GROUP, MIN_SIZE
from corgi_core.decoders.gan.generator import GanShape
from corgi_core.decoders.gan.losses import discriminator_loss, generator_loss, layout_loss
from corgi_core.decoders.gan.network import GanNetwork, GanStep
from corgi_core.decoders.task import DecoderTask, PictureBatch
from corgi_core.encoders.clip import ClipEnsemble
from corgi_core.encoders.contrastive import JITTER_NUMBERS, global_clip_loss, jittered
from corgi_core.encoders.similarity import mean_encoder_cosine, unit_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.training.randomness import StepRandom
from corgi_core.training.task import ALONE
from corgi_core.training.waiting import Meeting

TEMPERATURE = 0.5  # τ, as Lafite's


@dataclass
class GanTask(DecoderTask[GanSettings, GanNetwork]):
    """Training of a GAN decoder. `clip` are the encoders that made the embeddings; frozen."""

    compares_samples = True

    clip: ClipEnsemble

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.settings.image_size
        if size <= MIN_SIZE or size & (size - 1):
            raise CorgiError(
                f"a GAN cannot generate images of {size} pixels: its layers double and halve them",
                "set decoder.image_size to 8, 16, 32, 64 or another power of two",
            )
        if self.clip.digest != self.embeddings.spec["encoder"]:
            raise CorgiError(
                f"the embeddings were made by the CLIP encoders "
                f"{self.embeddings.spec['encoder']}, not by {self.clip.digest}",
                "materialise image_embeddings again",
            )
        if self.settings.training.compile:
            raise CorgiError(
                "a GAN cannot be compiled: its penalties differentiate twice",
                "set compile=False in its training settings",
            )

    @property
    def shape(self) -> GanShape:
        """The shape of both networks."""
        s, width = self.settings, self.embeddings.spec["width"]
        return GanShape(width, s.image_size, s.latent_width, s.channel_base, s.max_channels)

    def build(self) -> GanNetwork:
        """The untrained networks."""
        s = self.settings
        model = GanNetwork(self.shape, s.augment_target, s.augment_pictures)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def fit(self, model: GanNetwork) -> None:
        """Set the whitening of the training images' embeddings."""
        model.generator.whitening.fit(self.spaced_embeddings)

    def decoder(self, model: GanNetwork, card: Mapping[str, Any]) -> Decoder:
        """The trained generator as a decoder."""
        return GanDecoder(model.generator, self.settings, self.embeddings.spec, card)

    def decoder_network(self, model: GanNetwork) -> nn.Module:
        """The generator. Decoders have no discriminator, so fine-tuning begins with a new one."""
        return model.generator

    def condition(self, z: Tensor, random: StepRandom) -> Tensor:
        """The condition [n, d] for images with embeddings z [n, d]."""
        return self.perturbed(z, random)

    def loss(self, model: nn.Module, batch: PictureBatch, random: StepRandom) -> dict[str, Tensor]:
        """L_G + L_D, which have no parameter in common, of a multiple of GROUP images."""
        if len(batch.z) % GROUP:
            raise CorgiError(
                f"a worker's {len(batch.z)} images are no multiple of {GROUP}, which are compared",
                f"set batch_size to a multiple of {GROUP} times the workers",
            )
        s, real = self.settings, signed(batch.pixels)
        z = self.condition(batch.z.float(), random)
        with_r1, with_path = (random.step % each == 0 for each in (s.r1_interval, s.path_interval))
        step: GanStep = model(
            real,
            z,
            random.normal(self.shape.latent_width),
            random.uniform(3, NUMBERS),
            random.normal(*real.shape[1:]) if with_path else None,
            with_r1,
        )
        jittered_images = jittered((step.generated + 1) / 2, random.uniform(JITTER_NUMBERS))
        features = self.clip.to(random.device).encode_images_with_grad(jittered_images)
        clip = self._contrast(features, z)
        layout = layout_loss(step.generated, real)
        generator = generator_loss(step.feedback.score) + s.clip_weight * clip
        generator = generator + s.layout_weight * layout
        generator = generator + s.semantic_weight * self._contrast(step.feedback.semantic, z)
        discriminator = discriminator_loss(step.real.score, step.fake.score)
        discriminator = discriminator + s.semantic_weight * self._contrast(step.real.semantic, z)
        r1, path = s.r1_interval * step.r1, s.path_interval * step.path
        return {
            "loss": generator + s.path_weight * path + discriminator + s.r1_gamma / 2 * r1,
            "generator": generator, "discriminator": discriminator, "clip_contrast": clip,
            "layout": layout,
            "r1": r1, "path": path, "augmentation": step.p,
        }  # fmt: skip

    def _contrast(self, features: Tensor, z: Tensor) -> Tensor:
        """τ times CLIP's loss, by the mean cosine over the encoders. Both [n, d]."""
        share = len(self.encoder_dims) ** -0.5
        a, b = (share * unit_per_encoder(each, self.encoder_dims) for each in (features, z))
        return TEMPERATURE * global_clip_loss(a, b, a.new_tensor(1 / TEMPERATURE))

    def evaluate(self, model: GanNetwork, workers: Meeting = ALONE) -> dict[str, float]:
        """Pixel error, and the CLIP similarity of decoded images to their held-out embeddings.

        The network learns from the same CLIP, so this similarity is optimistic.
        """
        if not len(self.held_out.z):
            return {}
        device = next(model.parameters()).device
        z = self.held_out.z.to(device)
        found = self.clip.to(device).encode_images(self.decoder(model, card={}).decode(z))
        similarity = float(mean_encoder_cosine(found, z, self.encoder_dims).mean())
        return {"held_out_similarity": similarity} | super().evaluate(model, workers)
