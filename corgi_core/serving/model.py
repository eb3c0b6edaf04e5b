"""What is served: a pipeline with its names, and the training images to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from corgi_core.errors import CorgiError
from corgi_core.generation import Request
from corgi_core.io.files import digest_of
from corgi_core.io.model_folder import read_model_config
from corgi_core.io.model_index import IndexedModel, ModelIndex
from corgi_core.serving.pictures import OrderedPicture, sample_pictures
from corgi_core.serving.way_to_an_image import OrderedWay, embedding_map, way_to_an_image

if TYPE_CHECKING:
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.gaussians.embedding_map import EmbeddingMap
    from corgi_core.pipeline import CorgiPipeline

WARM_UP = "a red apple"


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A pipeline that requests are answered with.

    Attributes:
        name: Says which models they are, for people.
        pipeline: The models.
        training: The images that they learned from; None where they are not at hand.
        decoders: Further decoders by alias, which are loaded when they are first asked for.
        is_released: Whether they are the released model, and not a workspace's own.
    """

    name: str
    pipeline: CorgiPipeline
    training: TrainingImages | None = None
    decoders: Mapping[str, IndexedModel] = field(default_factory=dict)
    is_released: bool = False
    _others: dict[str, CorgiPipeline] = field(default_factory=dict, init=False)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the parts by their names."""
        pipeline = self.pipeline
        return {
            "clip": pipeline.clip.digest,
            "prior": pipeline.prior.digest,
            "decoder": pipeline.decoder.digest,
        }

    @cached_property
    def id(self) -> str:
        """Names the models together, in a few letters."""
        return _id_of(self.digests)

    def made_by(self, decoder: str | None) -> dict[str, Any]:
        """The name, id and digests of the models that make pictures by a decoder's alias."""
        digests = self.digests
        if decoder is not None:
            digests = digests | {"decoder": self.decoders[decoder].digest}
        return {"name": self.name, "id": _id_of(digests), "digests": digests}

    @cached_property
    def about(self) -> dict[str, Any]:
        """What a page offers: the limits and defaults of requests to these models."""
        decoder, prior = self.pipeline.decoder, self.pipeline.prior
        return {
            **self.made_by(None),
            "image_size": self.pipeline.image_size,
            "decoder": decoder.kind,
            "decoders": sorted(self.decoders),
            "max_steps": decoder.max_steps,
            "num_steps": decoder.settings.num_steps,
            "guidance": float(decoder.settings.guidance),
            "gaussians": prior.bank.k,
            "prior_steps": prior.settings.num_steps,
            "has_training_images": self.training is not None,
        }

    @cached_property
    def map(self) -> dict[str, Any]:
        """Its embeddings on a plane, as the page shows them."""
        return self._plane.as_json(self.pipeline.prior.bank)

    @cached_property
    def _plane(self) -> EmbeddingMap:
        return embedding_map(self.pipeline, self.training)

    def sample(self, ordered: Sequence[OrderedPicture] | Sequence[OrderedWay]) -> list[Any]:
        """The pictures, or the ways to them, that were ordered, all of one `key`."""
        pipeline = self._with_decoder(ordered[0].decoder)
        ways = [each for each in ordered if isinstance(each, OrderedWay)]
        if ways:
            return [way_to_an_image(pipeline, self._plane, way) for way in ways]
        pictures = [each for each in ordered if isinstance(each, OrderedPicture)]
        return sample_pictures(pipeline, pictures, self.training)

    def _with_decoder(self, alias: str | None) -> CorgiPipeline:
        """The pipeline, with another decoder where one is named; only one thread may ask."""
        if alias is None:
            return self.pipeline
        if alias not in self.decoders:
            raise CorgiError(
                f"there is no decoder {alias!r}",
                f"choose one of {', '.join(sorted(self.decoders))}"
                if self.decoders
                else "leave it out: only the champion is served",
            )
        if alias not in self._others:
            from corgi_core.decoders.registry import load_decoder

            decoder = load_decoder(self.decoders[alias].checked_folder("decoder")).to(
                self.pipeline.device
            )
            decoder.precision = self.pipeline.decoder.precision
            self._others[alias] = replace(self.pipeline, decoder=decoder)
        return self._others[alias]

    def warmed(self) -> ServedModel:
        """This model, after a first picture: it can make one, and the next ones are fast."""
        self.sample([OrderedPicture(Request.of_files([WARM_UP], [], []), 0)])
        return self


def decoders_beside(pipeline: CorgiPipeline, index: ModelIndex) -> dict[str, IndexedModel]:
    """The decoders of a workspace by alias that could take the place of a pipeline's own.

    Left out are those whose folder is gone or holds another model by now, and those that were
    trained with other encoders.
    """
    found = dict[str, IndexedModel]()
    for alias, model in index.others("decoder").items():
        with suppress(CorgiError):
            encoders = read_model_config(model.checked_folder("decoder"), "decoder")["encoders"]
            text_encoder = encoders.get("text_encoder", pipeline.tokens.digest)
            if (encoders["encoder"], text_encoder) == (
                pipeline.clip.digest,
                pipeline.tokens.digest,
            ):
                found[alias] = model
    return found


def _id_of(digests: Mapping[str, str]) -> str:
    return digest_of(dict(digests))[:12]
