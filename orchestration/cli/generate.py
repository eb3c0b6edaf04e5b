"""`corgi generate`: images of captions and images, by the registered models of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)

if TYPE_CHECKING:
    from corgi_core.evaluation.nearest import TrainingImages
    from corgi_core.pipeline import CorgiPipeline
    from corgi_core.released.at_hand import AtHand
    from orchestration.settings import Settings


def generate(
    captions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CAPTION]", help="What the images show, in words."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("-i", "--image", help="An image to start from; give it twice for two."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", help="How many images; default: 1, in an interpolation 8."),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            help="How far an image goes, 0 to 1; default: 0.5 to a caption, 0.35 between two."
        ),
    ] = None,
    nearest: Annotated[
        int,
        typer.Option(
            min=0, help="Show so many nearest training images beside each image, by CLIP."
        ),
    ] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="The PNG to write; of an interpolation, also a GIF.")
    ] = Path("picture.png"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Sampling steps of the decoder; default: its own."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance of the decoder, 0 to 100, 1 is none; default: its own."),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="An alias in the registry, or a model folder as ./prior; default: the champion."
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="A kind, such as gan, another alias, such as captions-10, or a model folder as "
            "./gan; default: the champion."
        ),
    ] = None,
    preset: PresetOption = None,
    dataset: DatasetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Generate images of captions and images with the champions of the model registry.

    Before there are any, the released model samples, which comes with Corgi.

    What you give decides what is made:

    [bold cyan]corgi generate "a red apple" -n 4[/bold cyan]  images of a caption

    [bold cyan]corgi generate -i cat.png -n 4[/bold cyan]  variations of an image

    [bold cyan]corgi generate -i cat.png "a crown"[/bold cyan]  between an image and a caption

    [bold cyan]corgi generate "a cat" "a dog" --out cats.gif[/bold cyan]  between captions

    [bold cyan]corgi generate -i cat.png -i dog.png --out cats.gif[/bold cyan]  … between images

    [bold cyan]corgi generate -i cat.png "a cat" "a dog"[/bold cyan]  an image that changes
    step by step as the second caption differs from the first

    [bold cyan]--nearest 3[/bold cyan] shows what the models may have memorised.
    The file's metadata keep the settings.
    """
    from corgi_core.devices import Device
    from corgi_core.generation import Request, check_output
    from corgi_core.generation import generate as write_images

    request = Request.of(captions or (), images or (), count, weight, seed, steps, guidance)
    check_output(out, request)
    settings = chosen_settings(preset, dataset, config, overrides)
    at_hand = load_at_hand(settings, prior, decoder)
    pipeline = at_hand.pipeline.to(Device().here(), settings.preset.inference_precision)
    if nearest and at_hand.is_released:
        raise CorgiError(
            "the released model comes without its training images",
            "leave --nearest out, or train your own models with `corgi demo`",
        )
    training = training_images(settings, pipeline.clip.digest) if nearest else None
    typer.echo(write_images(pipeline, request, out, training, nearest))
    typer.echo(f"Made by {at_hand}.")


def load_at_hand(settings: Settings, prior: str | None, decoder: str | None) -> AtHand:
    """The models that sample: those named, or a workspace's champions, or the released model.

    The released model takes the place of champions only where nothing else is asked for: no model,
    no dataset of one's own, and no preset of other data than emoji.

    Raises:
        CorgiError: As `load_pipeline` does.
    """
    from corgi_core.io.released import SOURCES
    from corgi_core.released.at_hand import AtHand, pipeline_at_hand

    named = prior or decoder or settings.own_dataset
    if not named and settings.preset.data.source in SOURCES and settings.preset.decoder is not None:
        return pipeline_at_hand(settings.workspace, settings.home)
    pipeline = load_pipeline(settings, prior, decoder)
    return AtHand(pipeline, settings.workspace, is_released=False)


def load_pipeline(settings: Settings, prior: str | None, decoder: str | None) -> CorgiPipeline:
    """The registered models of a workspace, or others where they are named.

    Before anything is registered, as for data without captions, the workspace's own CLIP and
    decoder serve, with a prior of other data.

    Raises:
        CorgiError: If a model is missing, or the models do not fit each other.
    """
    from corgi_core.io.model_index import MODELS_FILE, TextEncoderName
    from corgi_core.pipeline import CorgiPipeline

    own = settings.preset.decoder
    if own is None:
        raise CorgiError(
            f"the preset {settings.preset.name} has embeddings only, and no decoder",
            "generate in a workspace whose data are images",
        )
    clip = settings.storage / "clip_encoder"
    if (settings.state / MODELS_FILE).exists() or not (prior and "/" in prior and clip.exists()):
        return CorgiPipeline.from_pretrained(
            settings.workspace, home=settings.home, prior=prior, decoder=decoder
        )
    encoders = settings.preset.encoders
    return CorgiPipeline.from_folders(
        clip,
        Path(prior),
        Path(decoder) if decoder else settings.storage / "decoder" / own.kind,
        TextEncoderName(encoders.text, encoders.text_tokens),
    )


def training_images(settings: Settings, encoder: str) -> TrainingImages:
    """The workspace's training images; CorgiError where they were embedded by other encoders."""
    from corgi_core.data.arrays import ArrayStore
    from corgi_core.data.dataset import Dataset
    from corgi_core.evaluation.nearest import TrainingImages

    return TrainingImages(
        Dataset.load(settings.dataset_folder / "images"),
        ArrayStore.load(settings.storage / "image_embeddings", expect={"encoder": encoder}),
    )
