"""The API's requests and answers, from which its OpenAPI schema is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from corgi_core.pipeline import MAX_GUIDANCE, MAX_PROMPT_LENGTH

MAX_IMAGES = 64  # of a request
MAX_NEAREST = 8
MAX_SEED = 2**32 - 1
MAX_PRIOR_STEPS = 64  # each of which a trajectory decodes
MAX_BYTES = 8 * 2**20  # of an image's file
MAX_PIXELS = 2**24  # of an image: 4096², of which encoders read 224²
ID = r"^[A-Za-z0-9_-]{1,64}$"

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_LENGTH)]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
ImageFile = Annotated[
    str,
    Field(
        min_length=1, max_length=-(-MAX_BYTES // 3) * 4,
        description="A PNG, JPEG, WebP or other image file, in base64.",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]  # fmt: skip
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
PriorSteps = Annotated[
    int | None,
    Field(ge=1, le=MAX_PRIOR_STEPS, description="Of the prior; null: its own number."),
]


class ImageOrder(BaseModel):
    """What to make.

    One prompt: images of it. Two prompts, or two images: the way from one to the other. One image:
    variations of it. An image and a prompt: between them. An image and two prompts: the image,
    changed as the second prompt differs from the first.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompts: Annotated[list[Prompt], Field(max_length=2)] = []
    images: Annotated[list[ImageFile], Field(max_length=2)] = []
    num_images: Annotated[
        int | None, Field(ge=1, le=MAX_IMAGES, description="null: 1, on a way 8.")
    ] = None
    weight: Annotated[
        float | None,
        Field(
            ge=0, le=1,
            description="How far an image goes towards prompts; null: 0.5 to one, 0.35 between "
            "two.",
        ),
    ] = None  # fmt: skip
    seed: Annotated[
        Seed | None, Field(description="The same seed gives the same images; null: any.")
    ] = None
    num_steps: Annotated[
        int | None, Field(ge=1, le=1000, description="Of the decoder; null: its own number.")
    ] = None
    guidance: Annotated[
        float | None,
        Field(ge=0, le=MAX_GUIDANCE, description="Of the decoder, 1 is none; null: its own."),
    ] = None
    prior_steps: PriorSteps = None
    gaussian: Annotated[
        int | None,
        Field(ge=0, description="The Gaussian that prompts start from; null: each chooses."),
    ] = None
    decoder: Annotated[
        str | None,
        Field(max_length=100, description="One of the model's `decoders`; null: the champion."),
    ] = None
    nearest: Annotated[
        int, Field(ge=0, le=MAX_NEAREST, description="Nearest training images beside each image.")
    ] = 0
    id: Annotated[
        str | None, Field(pattern=ID, description="Any name of yours, to cancel the request by.")
    ] = None


class NormalisedOrder(BaseModel):
    """The same order with what was left open; null is another decoder's own number."""

    prompts: list[str]
    num_images: int
    weight: float | None
    seed: int
    num_steps: int | None
    guidance: float | None
    prior_steps: int | None
    gaussian: int | None
    decoder: str | None
    nearest: int


class NearestImage(BaseModel):
    """A training image beside a made one."""

    name: str
    cosine: float
    image: Base64


class ModelName(BaseModel):
    """The models that made the images."""

    name: str
    id: str
    digests: dict[str, str]


class MadeImages(BaseModel):
    """What was made."""

    images: Annotated[list[Base64], Field(description="PNG files, in base64.")]
    model: ModelName
    request: NormalisedOrder
    gaussians: Annotated[
        list[int], Field(description="The Gaussian that each prompt of the first image chose.")
    ]
    nearest: Annotated[
        list[list[NearestImage]], Field(description="A list for each image, nearest first.")
    ]
    link: Annotated[
        str | None,
        Field(description="The page that makes the same; null where images were sent."),
    ]


class ModelCard(ModelName):
    """The models that answer, with the limits and defaults of requests to them."""

    image_size: int
    decoder: str
    decoders: Annotated[list[str], Field(description="Others that a request may name.")]
    max_steps: int
    num_steps: int
    guidance: float
    gaussians: int
    prior_steps: int
    has_training_images: bool


class Health(BaseModel):
    """Whether the server works."""

    status: str
    detail: str = ""
    remedy: str = ""


class TrajectoryOrder(BaseModel):
    """Which image of a prompt to show the way to: the same values as of the order for images."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Prompt
    number: Annotated[int, Field(ge=0, lt=MAX_IMAGES, description="The image's, from 0.")] = 0
    seed: Seed = 0
    num_steps: Annotated[int | None, Field(ge=1, le=1000)] = None
    guidance: Annotated[float | None, Field(ge=0, le=MAX_GUIDANCE)] = None
    prior_steps: PriorSteps = None
    gaussian: Annotated[int | None, Field(ge=0)] = None
    decoder: Annotated[str | None, Field(max_length=100)] = None


Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class Ellipse(BaseModel):
    """A Gaussian on the map: its mean, and half-axes of one standard deviation."""

    mean: Point
    radii: Annotated[Point, Field(description="The longer one first.")]
    angle: Annotated[float, Field(description="Radians, from the first axis to the longer one.")]


class NumberedEllipse(Ellipse):
    """One of the prior's Gaussians."""

    number: int
    size: Annotated[int, Field(description="Embeddings that it was fitted to; 0: unknown.")]


class EmbeddingMapCard(BaseModel):
    """The plane on which embeddings differ most."""

    explained: Annotated[float, Field(description="Its share of their variance.")]
    cloud: Annotated[list[Point], Field(description="Training embeddings, or samples.")]
    gaussians: Annotated[list[NumberedEllipse], Field(description="The largest 64.")]


class Way(BaseModel):
    """How an image came to be: a value of each list for each of the prior's steps, and the end."""

    gaussian: Annotated[int, Field(description="The Gaussian that it started from.")]
    start: Ellipse
    timesteps: Annotated[list[int], Field(description="From T to 0.")]
    points: Annotated[list[Point], Field(description="z_t on the map.")]
    predictions: Annotated[list[Point], Field(description="ẑ_0 on the map.")]
    images: Annotated[list[Base64], Field(description="PNG files of ẑ_0, in base64.")]


class Progress(BaseModel):
    """How far a request is."""

    ahead: Annotated[int, Field(description="Pictures of others that are sampled before.")]
    made: int
    total: int
