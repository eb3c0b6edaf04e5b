"""What the page shows of the prior: the map of its embeddings, and a sample's way over it."""

from __future__ import annotations

import base64
from collections.abc import Hashable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from corgi_core.gaussians.embedding_map import EmbeddingMap

if TYPE_CHECKING:
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.pipeline import CorgiPipeline

MAPPED = 4000  # training embeddings that decide the map's directions
WORDS = (
    "airplane apple baby ball banana beach bear bed bee bicycle bird boat book bottle boy bread "
    "bridge bus butterfly cake camera candle car castle cat chair cherry child church city clock "
    "cloud coat computer cow crab crown cup dog dolphin door dragon dress drum duck elephant eye "
    "face family fire fish flag flower forest fox frog fruit garden ghost giraffe girl glasses "
    "grass guitar hammer hand hat heart horse house island key king kitchen kite lamp leaf lemon "
    "letter lion man map mask medal monkey moon mountain mouse mushroom ocean office owl pencil "
    "penguin person phone piano pig pizza plate player potato pumpkin queen rabbit rain rainbow "
    "ring river road robot rocket rose sandwich scissors shark sheep shell ship shirt shoe sign "
    "skull snake snow soccer spider star street sun sword table taxi tennis tiger tomato "
    "tower train tree truck turtle umbrella violin watch water whale wheel window wolf woman"
)


@dataclass(frozen=True)
class OrderedWay:
    """The way to one image of a caption.

    Attributes:
        prompt: The caption.
        number: The image's, from 0.
        seed: Decides its noise, with the number.
        num_steps: Sampling steps of the decoder; None is its own number.
        guidance: Guidance scale of the decoder; None is its own.
        prior_steps: Sampling steps of the prior; None is its own number.
        gaussian: The Gaussian to start from; None leaves it to the caption.
        decoder: The decoder's alias; None: the champion.
    """

    prompt: str
    number: int = 0
    seed: int = 0
    num_steps: int | None = None
    guidance: float | None = None
    prior_steps: int | None = None
    gaussian: int | None = None
    decoder: str | None = None

    @property
    def key(self) -> Hashable:
        """Equal for ways that are one."""
        return self


def embedding_map(pipeline: CorgiPipeline, training: TrainingImages | None = None) -> EmbeddingMap:
    """The map on which a prior's samples move.

    Args:
        pipeline: Has the prior.
        training: The images that it was trained on; without them the map is of the prior's own
            samples, for some plain words.
    """
    if training is None:
        return EmbeddingMap.of(pipeline.embed_text(WORDS.split(), num_images=4))
    return EmbeddingMap.of(training.sampled(MAPPED))


def way_to_an_image(
    pipeline: CorgiPipeline, plane: EmbeddingMap, ordered: OrderedWay
) -> dict[str, Any]:
    """How an image of a caption comes to be, for the page.

    Args:
        pipeline: Samples it, by the ordered decoder.
        plane: The map of the pipeline's embeddings.
        ordered: Which image.

    Returns:
        "timesteps" from T to 0; for each "points", where z_t is on the map, "predictions", where
        ẑ_0 is, and "images", those of ẑ_0 as PNG files in base64; "gaussian", the number of the
        start, and "start", its ellipse.
    """
    way, images = pipeline.trajectory(
        ordered.prompt, num_steps=ordered.num_steps, guidance=ordered.guidance,
        prior_steps=ordered.prior_steps, gaussian=ordered.gaussian, seed=ordered.seed,
        sample_id=ordered.number,
    )  # fmt: skip
    return {
        "gaussian": way.gaussian,
        "start": plane.ellipse(way.start),
        "timesteps": list(way.timesteps),
        "points": plane.points(way.z_t),
        "predictions": plane.points(way.z_0),
        "images": [_png(image) for image in images],
    }


def _png(image: Any) -> str:
    content = BytesIO()
    image.save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()
