"""Stable Diffusion's network: diffusers' own UNet and VAE, and a projection of the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from corgi_core.diffusion.parameterization import OF_DIFFUSERS

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]  # the matrices that LoRA adapts
MAX_UNTILED = 1024  # pixels to a side; the VAE works on larger images tile by tile
VECTORS = 4


@dataclass(frozen=True)
class StableDiffusionShape:
    """What the network is built from: diffusers' configurations, and the adapters' size."""

    embedding_width: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    lora_rank: int = 0  # none
    lora_alpha: int = 0

    @property
    def parameterization(self) -> str:
        """What the UNet predicts: "epsilon" or "v"."""
        return OF_DIFFUSERS[self.scheduler.get("prediction_type", "epsilon")]


class Conditioning(nn.Module):
    """z → four vectors for cross-attention instead of a text's tokens, normalised as those are.

    `negative` [d] is an embedding that stands for no image in particular. It replaces dropped
    embeddings in training, and guidance starts from it.
    """

    negative: Tensor

    def __init__(self, embedding_width: int, vector_width: int) -> None:
        super().__init__()
        self.register_buffer("negative", torch.zeros(embedding_width))
        self.project = nn.Linear(embedding_width, VECTORS * vector_width)
        self.norm = nn.LayerNorm(vector_width)

    def forward(self, z: Tensor, cond_mask: Tensor) -> Tensor:
        """Embeddings z [n, d], the negative where `cond_mask` [n] is false → [n, 4, w]."""
        cond = torch.where(cond_mask.unsqueeze(1), z, self.negative)
        vectors: Tensor = self.norm(self.project(cond).unflatten(1, (VECTORS, -1)))
        return vectors


class StableDiffusionNetwork(nn.Module):
    """The UNet's prediction (noise or velocity) for latents x_t and embeddings z.

    The frozen VAE is part of the network, so that one model folder holds all that sampling needs.
    LoRA adapters (Hu et al. 2022) are beside the frozen matrices that they adapt:
    W x + (α/r) B A x.
    """

    def __init__(
        self, shape: StableDiffusionShape, unet: UNet2DConditionModel, vae: AutoencoderKL
    ) -> None:
        super().__init__()
        self.shape = shape
        self.conditioning = Conditioning(shape.embedding_width, unet.config["cross_attention_dim"])
        self.unet = unet
        self.vae = vae
        if shape.lora_rank:
            self._add_adapters()

    @classmethod
    def untrained(cls, shape: StableDiffusionShape) -> Self:
        """A network of that shape, to load weights into."""
        unet = UNet2DConditionModel.from_config(shape.unet)
        return cls(shape, unet, AutoencoderKL.from_config(shape.vae))

    @property
    def latent_pixels(self) -> int:
        """Pixels to a side of a latent."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    def set_trainable(self, fine_tuning: str) -> None:
        """Freeze all but the projection, and the UNet ("full") or its adapters ("lora")."""
        self.requires_grad_(False)
        self.conditioning.requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            adapter = "lora_" in name
            parameter.requires_grad_(fine_tuning == "full" or (fine_tuning == "lora" and adapter))

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, cond_mask: Tensor) -> Tensor:
        """Predict noise or velocity, as the pipeline's scheduler says.

        Args:
            x_t: Latents [n, c, h, w].
            t: Timesteps [n].
            z: Embeddings [n, d].
            cond_mask: [n], false where the negative embedding replaces z.

        Returns:
            The prediction [n, c, h, w], float32.
        """
        vectors = self.conditioning(z, cond_mask)
        predicted: Tensor = self.unet(x_t, t, encoder_hidden_states=vectors).sample
        return predicted.float()

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents [n, c, h, w] → images [n, 3, s, s], about −1 … 1."""
        self.vae.use_tiling = latents.shape[-1] * self.latent_pixels > MAX_UNTILED
        images: Tensor = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample
        return images

    def _add_adapters(self) -> None:
        from peft import LoraConfig

        self.unet.add_adapter(
            LoraConfig(
                r=self.shape.lora_rank, lora_alpha=self.shape.lora_alpha, target_modules=ATTENTION
            )
        )
