"""A prior of diffusers, such as Karlo's or Kandinsky's: DALL-E 2's diffusion of an embedding.

It is a `PriorTransformer` with an `UnCLIPScheduler`, and has its own CLIP text encoder and
tokenizer, so it reads captions. The folder is that of the whole pipeline, of which only these four
parts are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from corgi_core.devices import inference
from corgi_core.encoders.similarity import scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.io.diffusers_folder import check_no_code, digest_of_diffusers
from corgi_core.io.files import read_json
from corgi_core.out_of_memory import out_of_memory_explained

SCHEDULERS = ("scheduler", "prior_scheduler")  # Kandinsky's name of that folder, Karlo's
PARTS = ("prior", *SCHEDULERS, "text_encoder", "tokenizer")
NUM_STEPS, GUIDANCE = 25, 4.0  # both pipelines' defaults
REMEDY = "give the folder of a diffusers pipeline with such a prior, weights as safetensors"
LESS_MEMORY = "end what else uses that memory, or sample on the CPU"


@dataclass
class DiffusersPrior:
    """Turns captions into image embeddings of the one CLIP encoder that it was trained on.

    Attributes:
        network: The `PriorTransformer`.
        scheduler: The `UnCLIPScheduler`.
        text_encoder: CLIP's text tower with its projection.
        tokenizer: Its tokenizer.
        precision: Of sampling on a GPU.
    """

    network: Any
    scheduler: Any
    text_encoder: Any
    tokenizer: Any
    precision: str = "auto"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The prior of a folder, on the CPU, in float32.

        Raises:
            CorgiError: A part is missing or of another kind, its weights are no safetensors, or the
                folder holds program code.
        """
        from diffusers.models.transformers.prior_transformer import PriorTransformer
        from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        check_no_code(folder)
        scheduler = _scheduler_folder(folder)
        weights: dict[str, Any] = {
            "use_safetensors": True, "dtype": torch.float32, "local_files_only": True,
        }  # fmt: skip
        try:
            network: Any = PriorTransformer.from_pretrained(
                str(folder), subfolder="prior", **weights
            )
            text_encoder: Any = CLIPTextModelWithProjection.from_pretrained(
                str(folder), subfolder="text_encoder", **weights
            )
            tokenizer: Any = CLIPTokenizer.from_pretrained(
                str(folder), subfolder="tokenizer", local_files_only=True
            )
            steps: Any = UnCLIPScheduler.from_pretrained(str(folder), subfolder=scheduler)
        except (OSError, ValueError) as failure:
            reason = " ".join(str(failure).split()).partition(". ")[0]
            raise CorgiError(
                f"the prior in {folder} cannot be loaded: {reason}", REMEDY
            ) from failure
        return cls(network.eval(), steps, text_encoder.eval(), tokenizer)

    def to(self, device: torch.device | str) -> Self:
        """Move the networks to a device, in place."""
        with out_of_memory_explained("moving a diffusers prior there", LESS_MEMORY):
            self.network.to(device)
            self.text_encoder.to(device)
        return self

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Its own CLIP's embeddings of captions [n] → [n, d]; their lengths have no meaning."""
        with inference(self.network.device, self.precision):
            return self._encode(captions)[0].float()

    @torch.no_grad()
    def sample(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Image embeddings of captions, as the pipelines sample them by default.

        Args:
            captions: n of them.
            seeds: Of each caption's own noise [n], so that no sample depends on its neighbours.

        Returns:
            Embeddings [n, d], scaled to norm √d. The network's are normalised by the mean and the
            standard deviation of CLIP's, which is undone before.
        """
        device, doing = self.network.device, f"sampling embeddings of {len(captions)} captions"
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        width = int(self.network.config.embedding_dim)
        with inference(device, self.precision), out_of_memory_explained(doing, LESS_MEMORY):
            cond = self._encode([*[""] * len(captions), *captions])
            noise = [torch.randn(1, width, generator=generator) for generator in generators]
            z = torch.cat(noise).to(device)
            self.scheduler.set_timesteps(NUM_STEPS, device=device)
            timesteps = self.scheduler.timesteps
            for t, before in zip(timesteps, [*timesteps[1:], None], strict=True):
                uncond, guided = self._predict(z, t, cond).chunk(2)
                predicted = uncond + GUIDANCE * (guided - uncond)
                z = self.scheduler.step(
                    predicted, timestep=t, sample=z, generator=generators, prev_timestep=before
                ).prev_sample
            z = self.network.post_process_latents(z)
        return scale_per_encoder(z.float(), (z.shape[1],))

    def _predict(self, z: Tensor, t: Tensor, cond: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The network's output [2n, d] at z [n, d]: without captions, then with them."""
        text, tokens, attn_mask = cond
        predicted: Tensor = self.network(
            torch.cat([z, z]), timestep=t, proj_embedding=text, encoder_hidden_states=tokens,
            attention_mask=attn_mask,
        ).predicted_image_embedding  # fmt: skip
        return predicted

    def _encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Text embeddings [n, d], tokens [n, T, w] and mask [n, T]."""
        device = self.network.device
        found = self.tokenizer(
            list(captions), padding="max_length", truncation=True, return_tensors="pt",
            max_length=self.tokenizer.model_max_length,
        )  # fmt: skip
        encoded = self.text_encoder(found.input_ids.to(device))
        return (
            encoded.text_embeds,
            encoded.last_hidden_state,
            found.attention_mask.bool().to(device),
        )


def diffusers_prior_digest(folder: Path) -> str:
    """Names the files of the parts that are loaded, and how the prior is sampled from."""
    return f"{digest_of_diffusers(folder, PARTS)}-{NUM_STEPS}-{GUIDANCE:g}"


def embedding_width(folder: Path) -> int:
    """The width d of the embeddings, from the prior's configuration.

    Raises:
        CorgiError: There is no `PriorTransformer` in the folder.
    """
    config = folder / "prior" / "config.json"
    found = read_json(config) if config.is_file() else {}
    if found.get("_class_name") != "PriorTransformer":
        raise CorgiError(f"{folder} holds no PriorTransformer in prior/", REMEDY)
    return int(found.get("clip_embed_dim") or found["embedding_dim"])


def _scheduler_folder(folder: Path) -> str:
    for name in SCHEDULERS:
        config = folder / name / "scheduler_config.json"
        if config.is_file() and read_json(config).get("_class_name") == "UnCLIPScheduler":
            return name
    raise CorgiError(
        f"{folder} has no UnCLIPScheduler in {' or '.join(SCHEDULERS)}/",
        "give a prior that is sampled as DALL-E 2's, such as Karlo's or Kandinsky's",
    )
