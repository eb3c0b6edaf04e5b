"""Caption → CLIP text embedding and tokens → prior → image embedding → decoder → picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from corgi_core.errors import CorgiError

if TYPE_CHECKING:  # open_clip takes seconds to import, and a text tower alone needs none of it
    from corgi_core.decoders.model import DecoderModel
    from corgi_core.encoders.clip import ClipEnsemble
    from corgi_core.encoders.text import TokenEncoder
    from corgi_core.encoders.text_tower import ClipTextTower
    from corgi_core.prior.model import PriorModel

LONGEST_PROMPT = 2000
MOST_IMAGES = 1024


@dataclass
class TextToImage:
    """A prior and a decoder that fit each other, with the text encoders that both belong to.

    Raises CorgiError where the parts were trained with different CLIP encoders.
    """

    clip: ClipTextTower | ClipEnsemble
    tokens: TokenEncoder
    prior: PriorModel
    decoder: DecoderModel

    def __post_init__(self) -> None:
        parts = {
            "text tower": self.clip.digest,
            "prior": self.prior.encoders["encoder"],
            "decoder": self.decoder.encoders["encoder"],
        }
        if len(set(parts.values())) > 1:
            known = ", ".join(f"{part}: {digest}" for part, digest in parts.items())
            raise CorgiError(
                f"these models belong to different CLIP encoders ({known})",
                "choose a prior and a decoder that were trained on the same embeddings",
            )

    def embed(
        self,
        prompts: list[str],
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Image embeddings [n, d] for n prompts; row i depends on (seed, i) and its prompt."""
        for prompt in prompts:
            check_prompt(prompt)
        tokens, mask = self.tokens.encode(prompts)
        text = self.clip.encode_texts(prompts)
        return self.prior.sample(tokens, mask, text, steps=steps, guidance=guidance, seed=seed)

    def generate(
        self,
        prompt: str,
        count: int = 1,
        *,
        seed: int = 0,
        prior_steps: int | None = None,
        decoder_steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """`count` pictures of one prompt: float32 [count, 3, h, w] in [0, 1].

        `guidance` is the decoder's; every default is the model's own. The same seed gives the same
        pictures on the same machine.
        """
        if not 1 <= count <= MOST_IMAGES:
            raise CorgiError(
                f"{count} pictures were asked for", f"ask for 1 to {MOST_IMAGES} at a time"
            )
        if guidance is not None and not math.isfinite(guidance):
            raise CorgiError(f"guidance {guidance} is not finite", "give a number such as 1.5")
        embeddings = self.embed([prompt] * count, seed=seed, steps=prior_steps)
        return self.decoder.decode(embeddings, steps=decoder_steps, guidance=guidance, seed=seed)


def check_prompt(prompt: str) -> None:
    """Raises CorgiError for a prompt that is empty or longer than 2,000 characters."""
    if not prompt.strip():
        raise CorgiError("the prompt is empty", 'describe a picture, such as "a red apple"')
    if len(prompt) > LONGEST_PROMPT:
        raise CorgiError(
            f"the prompt has {len(prompt):,} characters", f"keep it under {LONGEST_PROMPT:,}"
        )
