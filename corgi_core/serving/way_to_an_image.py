"""What the page shows of the prior: the map of its embeddings, and a sample's way over it."""

from __future__ import annotations

import base64
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
    pipeline: CorgiPipeline, plane: EmbeddingMap, prompt: str, **options: Any
) -> dict[str, Any]:
    """How an image of a caption comes to be, for the page.

    Args:
        pipeline: Samples it.
        plane: The map of the pipeline's embeddings.
        prompt: The caption.
        **options: Of `CorgiPipeline.trajectory`.

    Returns:
        "timesteps" from T to 0; for each "points", the places of z_t on the map, "predictions",
        those of ẑ_0, and "images", those of ẑ_0 as PNG files in base64; "gaussian", the number of
        the start, and "start", its ellipse.
    """
    way, images = pipeline.trajectory(prompt, **options)
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
