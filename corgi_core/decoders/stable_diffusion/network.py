"""The network: diffusers' own UNet and VAE as they are, and the projection of the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from corgi_core.decoders.stable_diffusion.conditioning import Conditioning

FINE_TUNING = ("full", "lora", "projection")
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]  # the matrices that LoRA adapts
PIXELS_AT_ONCE = 2**22  # of a batch for the VAE or the UNet: sixteen pictures of 512 to a side
TILED_ABOVE = 1024  # pixels to a side, beyond which the VAE works tile by tile


@dataclass(frozen=True)
class StableDiffusionShape:
    """What the network is built from: diffusers' configurations, and the adapters' size."""

    embedding_width: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    lora_rank: int = 0  # none
    lora_alpha: int = 0


class StableDiffusionNetwork(nn.Module):
    """The UNet's prediction (noise or velocity) for latents x_t and embeddings z.

    The VAE goes along, frozen, so that one model folder holds all that is needed to draw. LoRA
    adapters (Hu et al. 2022) stay beside the frozen matrices that they adapt: W x + (α/r) B A x.
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
        """A network of that shape for weights to be read into."""
        unet = UNet2DConditionModel.from_config(shape.unet)
        return cls(shape, unet, AutoencoderKL.from_config(shape.vae))

    @property
    def shrinking(self) -> int:
        """Pixels to a side of a latent."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    def learn(self, fine_tuning: str) -> None:
        """Freeze all but the projection and what is named, one of `FINE_TUNING`."""
        self.requires_grad_(False)
        self.conditioning.requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            adapter = "lora_" in name
            parameter.requires_grad_(fine_tuning == "full" or (fine_tuning == "lora" and adapter))

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor, dropped: Tensor) -> Tensor:
        """[n, c, h, w] from latents x_t of that shape, timesteps t [n] and embeddings z [n, d],
        hidden where `dropped` [n] is true."""
        vectors = self.conditioning(z, dropped)
        predicted: Tensor = self.unet(x_t, t, encoder_hidden_states=vectors).sample
        return predicted.float()

    def pictures(self, latents: Tensor) -> Tensor:
        """Scaled latents [n, c, h, w] → pictures [n, 3, s, s], about −1 … 1."""
        self.vae.use_tiling = latents.shape[-1] * self.shrinking > TILED_ABOVE
        pictures: Tensor = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample
        return pictures

    def _add_adapters(self) -> None:
        from peft import LoraConfig

        self.unet.add_adapter(
            LoraConfig(
                r=self.shape.lora_rank, lora_alpha=self.shape.lora_alpha, target_modules=ATTENTION
            )
        )
