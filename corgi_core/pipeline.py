"""From captions and images to pictures, by way of CLIP image embeddings.

A caption becomes an embedding by the prior, an image by CLIP's image tower, and whatever lies
between embeddings is an embedding too (`corgi_core.encoders.spherical`). The decoder decodes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from corgi_core.data.pixels import square
from corgi_core.encoders.spherical import slerp, text_difference, way
from corgi_core.errors import CorgiError

if TYPE_CHECKING:  # open_clip takes seconds to import, and a text tower alone needs none of it
    from corgi_core.decoders.decoder import Decoder, Text
    from corgi_core.encoders.clip import ClipEnsemble
    from corgi_core.encoders.clip_text import ClipTextTower
    from corgi_core.encoders.tokens import TokenEncoder
    from corgi_core.prior.model import PriorModel

LONGEST_PROMPT = 2000
MOST_IMAGES = 1024
MOST_PIXELS = 2**26  # of all pictures together, which are 0.8 GB of float32
PICTURES_AT_ONCE = 128  # that CLIP reads


@dataclass(frozen=True)
class Sampling:
    """How embeddings and pictures are drawn. What is None is the model's own setting.

    `guidance` is the decoder's, 1 is none. The same seed gives the same pictures on one machine.
    """

    seed: int = 0
    prior_steps: int | None = None
    decoder_steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise CorgiError(f"guidance {self.guidance} is not finite", "give a number such as 1.5")


DEFAULT = Sampling()


@dataclass
class Generator:
    """A prior and a decoder that fit each other, with the encoders that both belong to.

    `clip` may be a text tower alone; then no image can come in. An image stands for itself by its
    embedding [d]. All pictures are float32 [n, 3, h, w] in [0, 1]: picture i depends on (seed, i),
    whatever n; on a way all are drawn from the same noise, so that only what is shown changes.

    Raises CorgiError where the parts were trained with different CLIP or text encoders, for
    embeddings of another width or that are not finite, and for more pictures than memory is kept
    for.
    """

    clip: ClipTextTower | ClipEnsemble
    tokens: TokenEncoder
    prior: PriorModel
    decoder: Decoder

    def __post_init__(self) -> None:
        parts = {
            "CLIP": self.clip.digest,
            "prior": self.prior.encoders["encoder"],
            "decoder": self.decoder.encoders["encoder"],
        }
        if len(set(parts.values())) > 1:
            known = ", ".join(f"{part}: {digest}" for part, digest in parts.items())
            raise CorgiError(
                f"these models belong to different CLIP encoders ({known})",
                "choose a prior and a decoder that were trained on the same embeddings",
            )
        for part, encoders in (("prior", self.prior.encoders), ("decoder", self.decoder.encoders)):
            read = encoders.get("text_encoder", self.tokens.digest)
            if read != self.tokens.digest:
                raise CorgiError(
                    f"the {part} reads tokens of the text encoder {read}, "
                    f"not of {self.tokens.digest}",
                    f"choose a {part} that was trained with the preset's text encoder",
                )
        if self.decoder.wants_negative:
            self.decoder = self.decoder.with_negative(self._prior_draws("", 1, DEFAULT)[0])

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """d_b of the CLIP encoders."""
        return self.decoder.encoder_dims

    def generate(self, caption: str, count: int = 1, sampling: Sampling = DEFAULT) -> Tensor:
        """`count` pictures of a caption."""
        self.check_count(count)
        draws = self.embed_caption(caption, count, sampling)
        return self.draw(draws, sampling, caption=caption)

    def vary(self, image: Tensor, count: int = 1, sampling: Sampling = DEFAULT) -> Tensor:
        """`count` pictures of what CLIP sees in an image [d]; the rest is the decoder's to vary."""
        self.check_count(count)
        return self.draw(image.expand(count, -1), sampling)

    def blend(
        self,
        image: Tensor,
        caption: str,
        weight: float = 0.5,
        count: int = 1,
        sampling: Sampling = DEFAULT,
    ) -> Tensor:
        """`count` pictures at `weight` of the way from an image [d] to the prior's draws for a
        caption, one draw each."""
        self.check_count(count)
        draws = self.embed_caption(caption, count, sampling)
        blended = slerp(image, draws, weight, self.encoder_dims)
        return self.draw(blended, sampling, caption=caption)

    def interpolate(
        self, start: Tensor, end: Tensor, count: int, sampling: Sampling = DEFAULT
    ) -> Tensor:
        """`count` pictures from one embedding [d] to another, both included; at least two."""
        self.check_count(count)
        return self.draw(way(start, end, count, self.encoder_dims), sampling, one_noise=True)

    def move(
        self,
        image: Tensor,
        before: str,
        after: str,
        count: int,
        weight: float = 0.35,
        sampling: Sampling = DEFAULT,
    ) -> Tensor:
        """`count` pictures, two or more, from an image [d] along the direction between two captions
        (`text_difference`), the last one at `weight` of the way to that direction.

        DALL-E 2 ends at 0.25 to 0.5, and draws from the noise that the image itself came from; here
        the seed decides the noise.
        """
        self.check_count(count)
        for caption in (before, after):
            check_prompt(caption)
        texts = self.clip.encode_texts([before, after])
        direction = text_difference(texts[0], texts[1], self.encoder_dims)
        return self.interpolate(
            image, slerp(image, direction, weight, self.encoder_dims), count, sampling
        )

    def embed_caption(self, caption: str, count: int = 1, sampling: Sampling = DEFAULT) -> Tensor:
        """The prior's draws for a caption, [count, d]; row i depends on (seed, i) and the caption.

        Two captions with one seed are drawn from the same noise. A decoder that takes texts gets
        CLIP's embedding of the caption itself, without a prior.
        """
        check_prompt(caption)
        if self.decoder.takes == "text":
            return self.clip.encode_texts([caption]).expand(count, -1)
        return self._prior_draws(caption, count, sampling)

    def embed_image(self, image: bytes) -> Tensor:
        """CLIP's embedding [d] of a plain RGB image file, prepared as the training images are
        (`corgi_core.data.normalise.picture_file` makes any file plain)."""
        side = max(self.decoder.settings.image_size, self._whole_clip.image_size)
        return self._whole_clip.encode_images(torch.from_numpy(square(image, side).copy()[None]))[0]

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """CLIP's embeddings [n, d] of square pictures [n, 3, s, s] in [0, 1]."""
        batches = pictures.split(PICTURES_AT_ONCE)
        return torch.cat([self._whole_clip.encode_images(batch) for batch in batches])

    def draw(
        self,
        embeddings: Tensor,
        sampling: Sampling = DEFAULT,
        *,
        caption: str | None = None,
        one_noise: bool = False,
    ) -> Tensor:
        """A picture of each embedding [n, d]; with `one_noise` all from the first one's noise.

        A decoder that reads text reads the caption beside every embedding.
        """
        self.check_count(len(embeddings))
        if not bool(torch.isfinite(embeddings).all()):
            raise CorgiError("an embedding holds numbers that are not finite", "embed it again")
        chunks = embeddings.split(1) if one_noise else (embeddings,)
        drawn = [
            self.decoder.decode(
                chunk, self._beside(chunk, caption), steps=sampling.decoder_steps,
                guidance=sampling.guidance, seed=sampling.seed,
            )
            for chunk in chunks
        ]  # fmt: skip
        return torch.cat(drawn)

    def _beside(self, embeddings: Tensor, caption: str | None) -> Text | None:
        """The caption's tokens, once for each embedding, for a decoder that reads them."""
        if caption is None or not self.decoder.reads_text:
            return None
        from corgi_core.decoders.decoder import Text

        tokens, mask = self.tokens.encode([caption])
        return Text(tokens.expand(len(embeddings), -1, -1), mask.expand(len(embeddings), -1))

    def _prior_draws(self, caption: str, count: int, sampling: Sampling) -> Tensor:
        tokens, mask = self.tokens.encode([caption])  # once, however many draws
        text = self.clip.encode_texts([caption])
        return self.prior.sample(
            tokens.expand(count, -1, -1), mask.expand(count, -1), text.expand(count, -1),
            steps=sampling.prior_steps, seed=sampling.seed,
        )  # fmt: skip

    @property
    def _whole_clip(self) -> ClipEnsemble:
        from corgi_core.encoders.clip import ClipEnsemble

        if not isinstance(self.clip, ClipEnsemble):
            raise CorgiError(
                "only the text side of CLIP is loaded, which reads no images",
                "load it whole, by ClipEnsemble.load",
            )
        return self.clip

    def check_count(self, count: int) -> None:
        """Raises CorgiError where memory is not kept for so many pictures, or there are none."""
        most = min(MOST_IMAGES, MOST_PIXELS // self.decoder.settings.image_size**2)
        if not 1 <= count <= most:
            raise CorgiError(f"{count} pictures were asked for", f"ask for 1 to {most} at a time")


def check_prompt(prompt: str) -> None:
    """Raises CorgiError for a prompt that is empty or longer than 2,000 characters."""
    if not prompt.strip():
        raise CorgiError("the prompt is empty", 'describe a picture, such as "a red apple"')
    if len(prompt) > LONGEST_PROMPT:
        raise CorgiError(
            f"the prompt has {len(prompt):,} characters", f"keep it under {LONGEST_PROMPT:,}"
        )
