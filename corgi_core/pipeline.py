"""CorgiPipeline: captions and images to images, by way of CLIP image embeddings.

The prior turns a caption into an embedding, CLIP's image tower an image. What lies between two
embeddings is an embedding as well (`corgi_core.encoders.spherical`), and the decoder decodes any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from upath import UPath

from corgi_core.config import Framing, InferencePrecision
from corgi_core.encoders.image_inputs import ImageInput, image_squares
from corgi_core.encoders.spherical import interpolation, slerp, text_difference
from corgi_core.errors import CorgiError
from corgi_core.io.files import digest_of_file, read_json, write_json
from corgi_core.io.folders import atomic_folder, local_folder, published
from corgi_core.io.model_index import (
    CHAMPION,
    MODELS_FILE,
    PARTS,
    ModelIndex,
    TextEncoderName,
    digest_in,
)
from corgi_core.io.pictures import picture
from corgi_core.io.released import released_folder
from corgi_core.out_of_memory import out_of_memory_explained

if TYPE_CHECKING:  # open_clip takes seconds to import, and a text tower alone needs none of it
    from corgi_core.decoders.decoder import Decoder, TextCond
    from corgi_core.encoders.clip import ClipEnsemble
    from corgi_core.encoders.clip_text import ClipTextTower
    from corgi_core.encoders.tokens import TokenEncoder
    from corgi_core.prior.model import PriorModel
    from corgi_core.prior.trajectory import Trajectory

PIPELINE = "pipeline.json"
FORMAT = 2  # raised when pipeline.json or its digests change; 2: a model's settings count
TEXT_ENCODER = "text_encoder"

MAX_PROMPT_LENGTH = 2000  # characters
MAX_IMAGES = 1024
MAX_PIXELS = 2**26  # of all images together: 0.8 GB of float32
MAX_GUIDANCE = 100.0
CLIP_BATCH = 128
LESS_MEMORY = "give fewer at once, end what else uses that memory, or compute on the CPU"
BLEND_WEIGHT, DIFFERENCE_WEIGHT = 0.5, 0.35  # of `edit`, by default

OutputType: TypeAlias = Literal["pil", "pt"]
Images: TypeAlias = list[Image.Image] | Tensor
"""PIL images, or a float32 tensor [n, 3, s, s] in [0, 1] on the pipeline's device."""


@dataclass(repr=False, eq=False)
class CorgiPipeline:
    """A prior and a decoder that fit each other, with the encoders that both were trained on.

    Every method that makes images takes the same options:

    * `num_steps`: the decoder's sampling steps; None is the decoder's own number.
    * `guidance`: the scale of the decoder's classifier-free guidance; 1 is none, None the
      decoder's own.
    * `seed`: image i depends on (seed, i) and on what it shows, however many are made with it.
    * `output_type`: "pil" for a list of PIL images, "pt" for a tensor [n, 3, s, s] in [0, 1].

    Attributes:
        clip: The CLIP encoders. The text towers alone are enough until an image comes in; then the
            whole ensemble is loaded from `clip_folder`.
        tokens: The encoder of the text tokens that the prior reads.
        prior: The prior.
        decoder: The decoder.
        clip_folder: Where the whole CLIP ensemble is saved.

    Raises:
        CorgiError: If the parts were trained with different CLIP or text encoders.

    Examples:
        >>> from corgi_core import CorgiPipeline
        >>> pipeline = CorgiPipeline.from_pretrained("emoji").to("cuda")  # doctest: +SKIP
        >>> images = pipeline.text_to_image("a red apple", num_images=4)  # doctest: +SKIP
        >>> images[0].save("apple.png")  # doctest: +SKIP
    """

    clip: ClipTextTower | ClipEnsemble
    tokens: TokenEncoder
    prior: PriorModel
    decoder: Decoder
    clip_folder: Path | UPath | None = None

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
                    f"choose a {part} that was trained with this text encoder",
                )
        if self.decoder.needs_negative:
            self.decoder = self.decoder.with_negative(self._sample_prior([""], 1)[0])

    # Loading and saving

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | UPath,
        *,
        home: str | Path = ".corgi",
        prior: str | None = None,
        decoder: str | None = None,
    ) -> Self:
        """Load a saved pipeline, or the registered models of a workspace on this machine.

        Args:
            source: A folder that `save_pretrained` wrote; or a workspace, which is a preset
                ("emoji") or a preset on one's own data ("emoji.photos"), with the registry's
                champions; or a workspace and an alias ("emoji@gan", "emoji@language-free"), whose
                model then takes the champion's place. "emoji-full" is the released model while no
                such workspace has models of its own.
            home: The folder of the workspaces.
            prior: Another prior: an alias of the workspace or, with a slash, a model folder.
            decoder: Another decoder, likewise.

        Returns:
            The pipeline, on the CPU.

        Raises:
            CorgiError: If there is no such pipeline, workspace or alias, or a file is damaged.
        """
        if isinstance(source, str):
            if not (Path(source) / PIPELINE).exists() and not source.startswith((".", "/", "~")):
                return cls._registered(source, Path(home), prior, decoder)
            source = Path(source).expanduser()
        source = published(source)
        saved = _read_pipeline(source)
        for part, name in {"prior": prior, "decoder": decoder}.items():
            if name is not None and "/" not in name:
                raise CorgiError(
                    f"{source} is one pipeline and has no {part} with the alias {name!r}",
                    "give a model folder as ./NAME, or load a workspace",
                )
        text = saved[TEXT_ENCODER]
        name = text["name"] or str(source / TEXT_ENCODER)
        pipeline = cls.from_folders(
            source / "clip",
            Path(prior) if prior else source / "prior",
            Path(decoder) if decoder else source / "decoder",
            TextEncoderName(name, text["max_tokens"]),
        )
        if pipeline.tokens.digest != text["digest"]:
            raise CorgiError(
                f"the text encoder {name!r} is not the one that {source} was saved with",
                "install the version that it was saved with",
            )
        return pipeline

    @classmethod
    def _registered(cls, name: str, home: Path, prior: str | None, decoder: str | None) -> Self:
        workspace, _, alias = name.partition("@")
        released = released_folder(name)
        if released is not None and not (home / workspace / MODELS_FILE).exists():
            return cls.from_pretrained(released, prior=prior, decoder=decoder)
        if Path(workspace).name != workspace or not (home / workspace).is_dir():
            raise CorgiError(
                f"{name!r} is neither a saved pipeline nor a workspace in {home.absolute()}",
                "give the folder of a saved pipeline, train the workspace (`corgi run`), or give "
                "its home",
            )
        index = ModelIndex.load(home / workspace / MODELS_FILE)
        owners = [part for part in PARTS if alias in index.models.get(part, {})]
        if alias and not owners:
            index.folder("decoder", alias)  # says which there are
        asked = {"clip": None, "prior": prior, "decoder": decoder}
        names = {
            part: own or (alias if part in owners else CHAMPION) for part, own in asked.items()
        }
        folders = {
            part: Path(own) if "/" in own else index.folder(part, own)
            for part, own in names.items()
        }
        return cls.from_folders(**folders, text_encoder=index.text_encoder)

    @classmethod
    def from_folders(
        cls,
        clip: Path | UPath,
        prior: Path | UPath,
        decoder: Path | UPath,
        text_encoder: TextEncoderName,
    ) -> Self:
        """Load a pipeline from the model folders of its parts.

        Args:
            clip: A folder that `ClipEnsemble.save` wrote.
            prior: A prior's model folder.
            decoder: A decoder's model folder.
            text_encoder: The encoder of the text tokens.
        """
        from corgi_core.decoders.registry import load_decoder
        from corgi_core.encoders.clip_text import ClipTextTower
        from corgi_core.encoders.tokens import TokenEncoder
        from corgi_core.prior.model import PriorModel

        return cls(
            clip=ClipTextTower.load(clip),
            tokens=TokenEncoder.load(text_encoder.name, text_encoder.max_tokens),
            prior=PriorModel.load(prior),
            decoder=load_decoder(decoder),
            clip_folder=clip,
        )

    def save_pretrained(self, folder: str | Path | UPath) -> None:
        """Write the whole pipeline into one folder, whole or not at all.

        The folder holds `pipeline.json`, `clip/`, `prior/`, `decoder/` and, where the text encoder
        is a folder of this machine, `text_encoder/`; all weights as safetensors. It can be copied
        to another machine and loaded there by `from_pretrained`.

        Raises:
            CorgiError: If the folder holds anything that Corgi did not write.
        """
        folder = Path(folder) if isinstance(folder, str) else folder
        portable = not Path(self.tokens.name).exists()
        with atomic_folder(folder) as made, local_folder(made, write=True) as temporary:
            self._image_encoder().save(temporary / "clip")
            self.prior.save(temporary / "prior")
            self.decoder.save(temporary / "decoder")
            if not portable:
                self.tokens.model.save_pretrained(str(temporary / TEXT_ENCODER))
                self.tokens.tokenizer.save_pretrained(str(temporary / TEXT_ENCODER))
            text = {
                "name": self.tokens.name if portable else None,
                "max_tokens": self.tokens.max_tokens,
                "digest": self.tokens.digest,
            }
            content = {"format": FORMAT, TEXT_ENCODER: text, "files": digests_of(temporary)}
            write_json(temporary / PIPELINE, content)

    def to(self, device: torch.device | str, precision: InferencePrecision = "auto") -> Self:
        """Move all models to a device, in place; inputs are moved there when they come in.

        Args:
            device: Such as "cuda".
            precision: Of products on a GPU: "auto" is bf16 where the GPU has it, "fp32" the CPU's.
        """
        for part in (self.clip, self.tokens, self.prior, self.decoder):
            part.to(device)
            part.precision = precision
        return self

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.prior.device

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """The widths d_b of the CLIP encoders, whose sum is d."""
        return self.decoder.encoder_dims

    @property
    def image_size(self) -> int:
        """Side of the images that come out, in pixels."""
        return self.decoder.settings.image_size

    # Images out

    @torch.no_grad()
    def text_to_image(
        self,
        prompts: str | Sequence[str],
        num_images: int = 1,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        prior_steps: int | None = None,
        gaussian: int | None = None,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Images:
        """Images of captions.

        Args:
            prompts: One caption, or several.
            num_images: How many images of each.
            num_steps: Sampling steps of the decoder.
            guidance: Guidance scale of the decoder.
            prior_steps: Sampling steps of the prior; None is the prior's own number.
            gaussian: Which of the prior's Gaussians to start from; None leaves it to the caption.
            seed: Image i of a caption depends on (seed, i) and the caption, alone or in a batch.
            output_type: "pil" or "pt".

        Returns:
            len(prompts) · num_images images in one list (or tensor), those of the first caption
            first.

        Raises:
            CorgiError: If a caption is empty or too long, or there are too many images.

        Examples:
            >>> len(pipeline.text_to_image(["a red apple", "a car"], num_images=2))
            4
        """
        prompts = check_prompts(prompts)
        self.check_num_images(num_images * len(prompts), num_images)
        z = self.embed_text(
            prompts, num_images, num_steps=prior_steps, gaussian=gaussian, seed=seed
        )
        sample_ids = [*range(num_images)] * len(prompts)
        images = self._decode(z, num_steps, guidance, seed, prompts, sample_ids)
        return _as_output(images, output_type)

    @torch.no_grad()
    def variations(
        self,
        image: ImageInput,
        num_images: int = 1,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Images:
        """Images of what CLIP sees in an image; everything else is left to the decoder.

        Args:
            image: An image, as `embed_image` takes it, or an embedding [d].
            num_images: How many.
            num_steps: Sampling steps of the decoder.
            guidance: Guidance scale of the decoder.
            seed: Image i depends on (seed, i).
            output_type: "pil" or "pt".
        """
        self.check_num_images(num_images)
        z = self._embedding(image).expand(num_images, -1)
        return _as_output(self._decode(z, num_steps, guidance, seed), output_type)

    @torch.no_grad()
    def interpolate(
        self,
        start: str | ImageInput,
        end: str | ImageInput,
        num_images: int = 8,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Images:
        """Images at equal distances between two captions, images or embeddings, in any mixture.

        All are decoded from the same noise, so that they differ by their embeddings alone.

        Args:
            start: A caption (str), an embedding [d], or an image: PIL, `Path`, bytes, [3, h, w].
            end: Likewise.
            num_images: At least 2: the two ends are among them.
            num_steps: Sampling steps of the decoder.
            guidance: Guidance scale of the decoder.
            seed: Decides the noise, of the prior's samples too.
            output_type: "pil" or "pt".

        Raises:
            CorgiError: If the two ends point in opposite directions, which leaves the path between
                them undecided.
        """
        self.check_num_images(num_images)
        ends = [
            self.embed_text(point, seed=seed)[0]
            if isinstance(point, str)
            else self._embedding(point)
            for point in (start, end)
        ]
        images = self._decode_path(ends[0], ends[1], num_images, num_steps, guidance, seed)
        return _as_output(images, output_type)

    @torch.no_grad()
    def edit(
        self,
        image: ImageInput,
        prompt: str | None = None,
        *,
        before: str | None = None,
        after: str | None = None,
        weight: float | None = None,
        num_images: int = 1,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Images:
        """An image, changed towards a caption, or as one caption differs from another.

        With a `prompt`, each image lies between the given one and a sample of the prior for the
        prompt. With `before` and `after`, the embedding turns towards the difference of the two
        captions' CLIP embeddings (DALL-E 2, section 3.3); several images then show the change step
        by step, from the given image to the last, all decoded from the same noise.

        Args:
            image: An image, as `embed_image` takes it, or an embedding [d].
            prompt: What to blend the image with.
            before: What the image shows, as far as it is to change.
            after: What it is to show instead.
            weight: How far to go, 0 (the image) to 1; by default 0.5 towards a prompt and 0.35
                along a difference, which soon leaves the image behind.
            num_images: How many.
            num_steps: Sampling steps of the decoder.
            guidance: Guidance scale of the decoder.
            seed: Image i depends on (seed, i).
            output_type: "pil" or "pt".

        Raises:
            CorgiError: If neither a prompt nor both captions are given, or CLIP sees no difference
                between them.
        """
        self.check_num_images(num_images)
        if prompt is not None and before is None and after is None:
            samples = self.embed_text(prompt, num_images, seed=seed)
            weight = BLEND_WEIGHT if weight is None else weight
            blended = slerp(self._embedding(image), samples, weight, self.encoder_dims)
            return _as_output(
                self._decode(blended, num_steps, guidance, seed, [prompt]), output_type
            )
        if prompt is not None or before is None or after is None:
            raise CorgiError(
                "an edit needs a prompt, or the captions before and after",
                "give either prompt=… or both before=… and after=…",
            )
        texts = self.clip.encode_texts(check_prompts([before, after]))
        direction = text_difference(texts[0], texts[1], self.encoder_dims)
        start = self._embedding(image)
        weight = DIFFERENCE_WEIGHT if weight is None else weight
        end = slerp(start, direction, weight, self.encoder_dims)
        if num_images == 1:
            return _as_output(self._decode(end[None], num_steps, guidance, seed), output_type)
        images = self._decode_path(start, end, num_images, num_steps, guidance, seed)
        return _as_output(images, output_type)

    @torch.no_grad()
    def decode(
        self,
        embeddings: Tensor,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Images:
        """An image of each embedding.

        Args:
            embeddings: CLIP image embeddings [n, d].
            num_steps: Sampling steps of the decoder.
            guidance: Guidance scale of the decoder.
            seed: Image i depends on (seed, i) and its embedding.
            output_type: "pil" or "pt".

        Raises:
            CorgiError: If the embeddings have another width or hold numbers that are not finite.
        """
        self.check_num_images(len(embeddings))
        return _as_output(self._decode(embeddings, num_steps, guidance, seed), output_type)

    # Embeddings out

    @torch.no_grad()
    def embed_text(
        self,
        prompts: str | Sequence[str],
        num_images: int = 1,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        gaussian: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The prior's image embeddings of captions, which `decode` turns into images.

        Two captions with one seed are sampled from the same noise. A decoder that takes texts gets
        CLIP's embedding of the caption itself, without a prior.

        Args:
            prompts: One caption, or several.
            num_images: How many samples of each.
            num_steps: Sampling steps of the prior; None is the prior's own number.
            guidance: Guidance scale of the prior; None is the prior's own.
            gaussian: Which of the prior's Gaussians to start from; None leaves it to the caption.
            seed: Sample i of a caption depends on (seed, i) and the caption.

        Returns:
            float32 [len(prompts) · num_images, d], those of the first caption first.
        """
        prompts = check_prompts(prompts)
        if self.decoder.input_kind == "text":
            return self.clip.encode_texts(prompts).repeat_interleave(num_images, dim=0)
        return self._sample_prior(prompts, num_images, num_steps, guidance, seed, gaussian)

    @torch.no_grad()
    def trajectory(
        self,
        prompt: str,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        prior_steps: int | None = None,
        gaussian: int | None = None,
        seed: int = 0,
        sample_id: int = 0,
        output_type: OutputType = "pil",
    ) -> tuple[Trajectory, Images]:
        """How an image of a caption comes to be: the prior's way from noise, each step decoded.

        Args:
            prompt: One caption.
            num_steps: Sampling steps of the decoder.
            guidance: Guidance scale of the decoder.
            prior_steps: Sampling steps of the prior; None is the prior's own number.
            gaussian: Which of the prior's Gaussians to start from; None leaves it to the caption.
            seed: Decides the noise, with `sample_id`.
            sample_id: Which of the caption's images it is: the last image here is image
                `sample_id` of `text_to_image` with the same seed and options.
            output_type: "pil" or "pt".

        Returns:
            The points z_t and the predictions ẑ_0 of s prior steps, s + 1 each; and the images of
            these predictions, all decoded from the same noise.

        Raises:
            CorgiError: If the decoder reads captions' embeddings, without a prior.
        """
        from corgi_core.prior.trajectory import Trajectory

        prompts = check_prompts(prompt)
        if self.decoder.input_kind == "text":
            raise CorgiError(
                f"a {self.decoder.kind} decoder reads the caption's own embedding, without a prior",
                "choose a decoder of image embeddings to see the way there",
            )
        way = Trajectory.of(
            self.prior, self._texts(prompts),
            num_steps=prior_steps, gaussian=gaussian, seed=seed, sample_id=sample_id,
        )  # fmt: skip
        self.check_num_images(len(way.z_0) - 1)  # one a step; the sample's own comes on top
        images = self._decode(
            way.z_0, num_steps, guidance, seed, prompts, [sample_id] * len(way.z_0)
        )
        return way, _as_output(images, output_type)

    @torch.no_grad()
    def embed_image(self, images: ImageInput | Sequence[ImageInput]) -> Tensor:
        """CLIP's embeddings of images, prepared as the training images are.

        Args:
            images: One image or several: PIL images, files' paths or bytes, tensors [3, h, w]
                (uint8, or float in [0, 1]), or a tensor [n, 3, h, w].

        Returns:
            float32 [n, d], n being 1 for one image.

        Raises:
            CorgiError: If an image cannot be read, or memory runs out.
        """
        clip = self._image_encoder()
        framing: Framing = self.decoder.encoders.get("framing", "letterbox")
        squares = image_squares(images, max(self.image_size, clip.image_size), framing)
        batches = torch.split(squares, CLIP_BATCH)
        with out_of_memory_explained(f"embedding {len(squares)} images", LESS_MEMORY):
            return torch.cat([clip.encode_images(batch) for batch in batches])

    # What they are made of

    def made_by(
        self, num_steps: int | None = None, guidance: float | None = None
    ) -> dict[str, Any]:
        """Names the models, their precision and the decoder's options: equal ones, equal images."""
        return {
            "prior": self.prior.digest,
            "decoder": self.decoder.digest,
            "steps": num_steps,
            "guidance": guidance,
            "precision": self.prior.precision,
        }

    def check_num_images(self, total: int, asked: int | None = None) -> None:
        """Raises CorgiError for no image, and for more than memory is planned for."""
        most = min(MAX_IMAGES, MAX_PIXELS // self.image_size**2)
        if not 1 <= total <= most:
            each = f" ({asked} for each prompt)" if asked not in (None, total) else ""
            raise CorgiError(f"{total} images were asked for{each}", f"ask for 1 to {most}")

    def _embedding(self, image: ImageInput) -> Tensor:
        """The embedding [d] of one image, or the embedding given."""
        if isinstance(image, Tensor) and image.ndim == 1:
            return image.to(self.device)
        if isinstance(image, Tensor) and image.ndim != 3:
            raise CorgiError(
                f"a tensor of shape {list(image.shape)} is neither an image nor an embedding",
                "give an image [3, h, w] or an embedding [d]",
            )
        return self.embed_image(image)[0]

    def _decode_path(
        self,
        start: Tensor,
        end: Tensor,
        num_images: int,
        num_steps: int | None,
        guidance: float | None,
        seed: int,
    ) -> Tensor:
        """Images from one embedding [d] to another, all decoded from the same noise."""
        points = interpolation(start, end, num_images, self.encoder_dims)
        return self._decode(points, num_steps, guidance, seed, sample_ids=[0] * num_images)

    def _decode(
        self,
        z: Tensor,
        num_steps: int | None,
        guidance: float | None,
        seed: int,
        prompts: Sequence[str] | None = None,
        sample_ids: Sequence[int] | None = None,
    ) -> Tensor:
        """Images [n, 3, s, s] of z [n, d]; a decoder that reads text reads the prompts beside it.

        Each prompt belongs to the next n / len(prompts) of the embeddings.
        """
        check_guidance(guidance)
        if not bool(torch.isfinite(z).all()):
            raise CorgiError("an embedding holds numbers that are not finite", "embed it again")
        return self.decoder.decode(
            z, self._text_beside(len(z), prompts),
            num_steps=num_steps, guidance=guidance, seed=seed, sample_ids=sample_ids,
        )  # fmt: skip

    def _text_beside(self, count: int, prompts: Sequence[str] | None) -> TextCond | None:
        if prompts is None or not self.decoder.reads_text:
            return None
        from corgi_core.decoders.decoder import TextCond

        return TextCond(
            *(
                part.repeat_interleave(count // len(prompts), dim=0)
                for part in self.tokens.encode(list(prompts))
            )
        )

    def _sample_prior(
        self,
        prompts: Sequence[str],
        num_images: int,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        gaussian: int | None = None,
    ) -> Tensor:
        check_guidance(guidance)
        texts = self._texts(prompts)
        chosen = self.prior.choose(*texts, [gaussian] * len(prompts))
        tokens, attn_mask, text, gaussians = (
            part.repeat_interleave(num_images, dim=0) for part in (*texts, chosen)
        )
        return self.prior.sample(
            tokens, attn_mask, text, num_steps=num_steps, guidance=guidance, seed=seed,
            sample_ids=[*range(num_images)] * len(prompts), gaussians=gaussians,
        )  # fmt: skip

    def _texts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """What a prior reads of n prompts: text tokens [n, T, w], their mask, CLIP's [n, d]."""
        with out_of_memory_explained(f"encoding {len(prompts)} captions", LESS_MEMORY):
            tokens, attn_mask = self.tokens.encode(list(prompts))
            return tokens, attn_mask, self.clip.encode_texts(prompts)

    def _image_encoder(self) -> ClipEnsemble:
        """CLIP with its image towers, which are loaded when they are first needed."""
        from corgi_core.encoders.clip import ClipEnsemble

        if isinstance(self.clip, ClipEnsemble):
            return self.clip
        if self.clip_folder is None:
            raise CorgiError(
                "only the text side of CLIP is loaded, which reads no images",
                "give the pipeline the folder of the whole ensemble (clip_folder)",
            )
        whole = ClipEnsemble.load(self.clip_folder)
        if whole.digest != self.clip.digest:
            raise CorgiError(
                f"{self.clip_folder} holds other CLIP encoders than when the pipeline was loaded",
                "load the pipeline again",
            )
        whole.precision = self.clip.precision
        self.clip = whole.to(self.device)
        return self.clip


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        CorgiError: If there is none, or one is empty, longer than 2,000 characters, or not
            Unicode text (bytes on a command line that are not UTF-8).
    """
    several = [prompts] if isinstance(prompts, str) else list(prompts)
    if not several:
        raise CorgiError("there is no prompt", "give at least one")
    for prompt in several:
        if not prompt.strip():
            raise CorgiError("the prompt is empty", 'describe an image, such as "a red apple"')
        if len(prompt) > MAX_PROMPT_LENGTH:
            raise CorgiError(
                f"the prompt has {len(prompt):,} characters", f"keep it under {MAX_PROMPT_LENGTH:,}"
            )
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise CorgiError(
                f"the prompt {prompt!a} is not UTF-8 text", "give it in UTF-8"
            ) from error
    return several


def check_guidance(guidance: float | None) -> None:
    """Raises CorgiError for a guidance scale outside 0 … 100."""
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:  # NaN is outside
        raise CorgiError(
            f"a guidance scale of {guidance:g} is impossible",
            f"give a number between 0 and {MAX_GUIDANCE:g}, such as 1.5",
        )


def _as_output(images: Tensor, output_type: OutputType) -> Images:
    if output_type == "pt":
        return images
    if output_type == "pil":
        return [picture(image) for image in images.cpu()]
    raise CorgiError(f"there is no output type {output_type!r}", 'give "pil" or "pt"')


def digests_of(folder: Path | UPath) -> dict[str, str | None]:
    """What `pipeline.json` lists: a digest for each file of the encoders, prior and decoder."""
    files = sorted(
        str(file)[len(str(folder)) :].lstrip("/")
        for part in ("clip", TEXT_ENCODER)
        for file in (folder / part).rglob("*")
        if file.is_file() and not file.name.startswith(".")
    )
    return {name: _digest(folder, name) for name in (*files, "prior", "decoder")}


def _digest(folder: Path | UPath, name: str) -> str | None:
    """The digest of a file, or of the model in a folder; None where it is missing."""
    if name in PARTS:
        return digest_in(folder / name)
    return digest_of_file(folder / name) if (folder / name).is_file() else None


def _read_pipeline(folder: Path | UPath) -> dict[str, Any]:
    """What `pipeline.json` says; CorgiError where the folder's content is not what it says."""
    path = folder / PIPELINE
    if not path.is_file():
        raise CorgiError(
            f"{folder} holds no pipeline: {PIPELINE} is missing",
            "give a folder that save_pretrained wrote",
        )
    saved: dict[str, Any] = read_json(path)
    if saved.get("format") != FORMAT:
        raise CorgiError(
            f"{folder} has the pipeline format {saved.get('format')}, and this version reads "
            f"{FORMAT}",
            "save it again, or use the version that wrote it",
        )
    for name, digest in saved["files"].items():
        if _digest(folder, name) != digest:
            raise CorgiError(
                f"{folder / name} is missing or not what {PIPELINE} lists", "copy the folder again"
            )
    return saved
