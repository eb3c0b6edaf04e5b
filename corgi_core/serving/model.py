"""What is served: a pipeline with its names, and the training images to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from corgi_core.generation import Request
from corgi_core.io.files import digest_of
from corgi_core.serving.pictures import OrderedPicture, Picture, sample_pictures

if TYPE_CHECKING:
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.pipeline import CorgiPipeline

WARM_UP = "a red apple"


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A pipeline that requests are answered with.

    Attributes:
        name: Says which models they are, for people.
        pipeline: The models.
        training: The images that they learned from; None where they are not at hand.
    """

    name: str
    pipeline: CorgiPipeline
    training: TrainingImages | None = None

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
        return digest_of(self.digests)[:12]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What a page offers: the limits and defaults of requests to these models."""
        decoder, prior = self.pipeline.decoder, self.pipeline.prior
        return {
            "name": self.name,
            "id": self.id,
            "digests": self.digests,
            "image_size": self.pipeline.image_size,
            "decoder": decoder.kind,
            "max_steps": decoder.max_steps,
            "num_steps": decoder.settings.num_steps,
            "guidance": float(decoder.settings.guidance),
            "gaussians": prior.bank.k,
            "prior_steps": prior.settings.num_steps,
            "has_training_images": self.training is not None,
        }

    def sample(self, ordered: Sequence[OrderedPicture]) -> list[Picture]:
        """The pictures that were ordered, all of one `key`."""
        return sample_pictures(self.pipeline, ordered, self.training)

    def warmed(self) -> ServedModel:
        """This model, after a first picture: it can make one, and the next ones are fast."""
        self.sample([OrderedPicture(Request.of_files([WARM_UP], [], []), 0)])
        return self
