"""`corgi generate`: captions and images drawn by the champions of the model registry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corgi_core.errors import CorgiError
from orchestration.cli.options import (
    ConfigOption,
    DatasetOption,
    PresetOption,
    SetOption,
    chosen_settings,
)
from orchestration.resources.champions import CHAMPION, registered_folder
from orchestration.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor
    from upath import UPath

    from corgi_core.encoders.clip import ClipEnsemble
    from corgi_core.encoders.clip_text import ClipTextTower
    from corgi_core.evaluation.nearest import Neighbours, TrainingImages
    from corgi_core.pipeline import Generator, Sampling

STEPS_OF_A_WAY = 8  # where --count does not say
COLUMNS_OF_A_WAY = 8
# Where --weight does not say: between an image and a caption, and along two captions' difference,
# which soon leaves the image behind.
HALFWAY, ALONG_A_DIFFERENCE = 0.5, 0.35


def generate(
    captions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CAPTION]", help="What to draw, in words."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("-i", "--image", help="A picture to start from; give it twice for two."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", help="How many pictures; default: 1, on a way 8."),
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
            min=0, help="Show so many nearest training images beside each picture, by CLIP."
        ),
    ] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="The PNG to write; on a way, a GIF is a film of it.")
    ] = Path("picture.png"),
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Sampling steps of the decoder; default: its own."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance of the decoder, 1 is none; default: its own."),
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
    """Draw captions and images with the champions of the model registry.

    What you give decides what is drawn:

    [bold cyan]corgi generate "a red apple" -n 4[/bold cyan]  pictures of a caption

    [bold cyan]corgi generate -i cat.png -n 4[/bold cyan]  variations of an image

    [bold cyan]corgi generate -i cat.png "a crown"[/bold cyan]  between an image and a caption

    [bold cyan]corgi generate "a cat" "a dog" --out way.gif[/bold cyan]  the way between captions

    [bold cyan]corgi generate -i cat.png -i dog.png --out way.gif[/bold cyan]  … between images

    [bold cyan]corgi generate -i cat.png "a cat" "a dog"[/bold cyan]  an image on its way,
    changing as the second caption differs from the first

    [bold cyan]--nearest 3[/bold cyan] shows what the models may have by heart.
    The file's metadata keep the settings.
    """
    settings = chosen_settings(preset, dataset, config, overrides)
    said = draw(
        settings, captions or [], images or [], out, count=count, weight=weight, nearest=nearest,
        seed=seed, steps=steps, guidance=guidance, prior=prior, decoder=decoder,
    )  # fmt: skip
    typer.echo(said)


def draw(
    settings: Settings,
    captions: Sequence[str],
    images: Sequence[Path],
    out: Path,
    *,
    count: int | None,
    weight: float | None,
    nearest: int,
    seed: int,
    steps: int | None,
    guidance: float | None,
    prior: str | None,
    decoder: str | None,
) -> str:
    """Draw what captions and image files ask for into the PNG or GIF `out`; says what was drawn.

    Beside each picture stand its `nearest` training images. The file's metadata (a PNG's text
    chunk "corgi", a GIF's comment) says how the pictures came about.
    """
    is_way = _is_way(captions, images, weight)
    _check_name(out, is_way)
    from corgi_core.data.normalise import picture_file
    from corgi_core.io.files import digest_of_bytes
    from corgi_core.pipeline import Sampling, check_prompt

    sampling = Sampling(seed, decoder_steps=steps, guidance=guidance)
    for caption in captions:
        check_prompt(caption)
    files = [picture_file(image) for image in images]
    model = chosen_models(
        settings, prior or CHAMPION, decoder or CHAMPION, whole_clip=bool(files or nearest)
    )
    count = (STEPS_OF_A_WAY if is_way else 1) if count is None else count
    if weight is None and images and captions:
        weight = HALFWAY if len(captions) == 1 else ALONG_A_DIFFERENCE
    made: dict[str, Any] = {
        "captions": list(captions),
        "images": [
            {"name": path.name, "digest": digest_of_bytes(file)}
            for path, file in zip(images, files, strict=True)
        ],
        "count": count, "weight": weight, "seed": seed, "steps": steps, "guidance": guidance,
        "prior": model.prior.digest, "decoder": model.decoder.digest,
    }  # fmt: skip
    said = f"{out}: {_in_words(captions, images, count)}"
    training = training_images(settings, model.clip.digest) if nearest else None
    model.check_count(count)
    model.check_count(count * (1 + nearest))
    pictures = _pictures(
        model, captions, [model.embed_image(file) for file in files], count, weight, sampling
    )
    beside = None
    if training is not None:
        neighbours = training.nearest(model.embed_pictures(pictures), nearest)
        beside = training.beside(pictures, neighbours)
        made["nearest"] = _listed(neighbours)
        said += _most_alike(training, neighbours)
    columns = COLUMNS_OF_A_WAY if is_way else math.ceil(math.sqrt(count))
    _write(out, pictures, columns, made, beside)
    return said


def _is_way(captions: Sequence[str], images: Sequence[Path], weight: float | None) -> bool:
    """Whether what is given leads from somewhere to somewhere; CorgiError where it is unclear."""
    given = (len(images), len(captions))
    if given not in {(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2)}:
        raise CorgiError(
            f"{given[0]} images and {given[1]} captions say nothing to draw",
            "give one or two captions, one or two images (--image), or an image and one or two "
            "captions; `corgi generate --help` says what each draws",
        )
    if weight is not None and given not in {(1, 1), (1, 2)}:
        raise CorgiError(
            "--weight says how far an image goes towards captions, and there are not both",
            "leave it out, or give --image FILE and a caption",
        )
    return sum(given) > 1 and given != (1, 1)


def _check_name(out: Path, is_way: bool) -> None:
    suffix = out.suffix.lower()
    if suffix not in (".png", ".gif"):
        raise CorgiError(
            f"{out} is no PNG or GIF file", "give --out a name that ends in .png or .gif"
        )
    if suffix == ".gif" and not is_way:
        raise CorgiError(
            f"{out} would move, but these pictures lead nowhere",
            "give --out a name that ends in .png, or two captions or images to go between",
        )
    if out.is_dir():
        raise CorgiError(f"{out} is a folder", "give --out the name of a file")


def _pictures(
    model: Generator,
    captions: Sequence[str],
    images: Sequence[Tensor],
    count: int,
    weight: float | None,
    sampling: Sampling,
) -> Tensor:
    """What is given decides what is drawn; there is a weight where both kinds are given."""
    match images, captions:
        case [], [caption]:
            return model.generate(caption, count, sampling)
        case [image], []:
            return model.vary(image, count, sampling)
        case [image], [caption] if weight is not None:
            return model.blend(image, caption, weight, count, sampling)
        case [], [first, last]:
            start, end = (model.embed_caption(each, 1, sampling)[0] for each in (first, last))
            return model.interpolate(start, end, count, sampling)
        case [first, last], []:
            return model.interpolate(first, last, count, sampling)
        case [image], [before, after] if weight is not None:
            return model.move(image, before, after, count, weight, sampling)
    raise AssertionError(f"{len(images)} images and {len(captions)} captions were let through")


def _in_words(captions: Sequence[str], images: Sequence[Path], count: int) -> str:
    texts, names = [repr(caption) for caption in captions], [image.name for image in images]
    match names, texts:
        case [], [caption]:
            return f"{count} × {caption}"
        case [image], []:
            return f"{count} × variations of {image}"
        case [image], [caption]:
            return f"{count} × {image} with {caption}"
        case [image], [before, after]:
            return f"{image} in {count} steps from {before} towards {after}"
    first, last = [*names, *texts]
    return f"{count} steps from {first} to {last}"


def _listed(neighbours: Neighbours) -> list[list[dict[str, Any]]]:
    return [
        [{"key": key, "cosine": round(float(cosine), 4)} for key, cosine in zip(*row, strict=True)]
        for row in zip(neighbours.keys.tolist(), neighbours.cosines, strict=True)
    ]


def _most_alike(training: TrainingImages, neighbours: Neighbours) -> str:
    """The training image that any of the pictures is most like, in a line of its own."""
    row = int(neighbours.cosines[:, 0].argmax())
    (name,) = training.names(neighbours.keys[row, :1].tolist())
    return f"\nMost like the training image {name!r} (cosine {neighbours.cosines[row, 0]:.3f})"


def _write(
    out: Path,
    pictures: Tensor,
    columns: int,
    made: dict[str, Any],
    beside: tuple[list[str], dict[str, Tensor]] | None,
) -> None:
    """A PNG of all pictures or a GIF of one after the other, each with what stands beside it."""
    from corgi_core.io.pictures import grid, labelled_grid, picture, save_gif, save_png

    if out.suffix.lower() == ".gif":
        frames = [picture(each) for each in pictures]
        if beside is not None:
            frames = [
                labelled_grid([label], {h: each[i : i + 1] for h, each in beside[1].items()})
                for i, label in enumerate(beside[0])
            ]
        save_gif(frames, out, made)
    elif beside is not None:
        save_png(labelled_grid(*beside), out, made)
    else:
        save_png(picture(pictures[0]) if len(pictures) == 1 else grid(pictures, columns), out, made)


def chosen_models(settings: Settings, prior: str, decoder: str, whole_clip: bool) -> Generator:
    """A prior and a decoder with the workspace's CLIP; a CorgiError where one is missing or they
    do not fit each other.

    Each is named by an alias of the registry ("champion", a decoder's kind) or, with a slash, by a
    model folder, which may come from other data. The text side of CLIP is enough for captions and
    starts seconds sooner.
    """
    if settings.preset.decoder is None:
        raise CorgiError(
            f"the preset {settings.preset.name} has embeddings only, and no decoder to draw with",
            "generate in a workspace whose data are pictures",
        )
    named = {"prior": prior, "decoder": decoder, "clip": CHAMPION}
    folders = {part: _folder(settings, part, name) for part, name in named.items()}
    from corgi_core.decoders.registry import load_decoder
    from corgi_core.encoders.clip_text import ClipTextTower
    from corgi_core.encoders.tokens import TokenEncoder
    from corgi_core.pipeline import Generator
    from corgi_core.prior.model import PriorModel

    def clip() -> ClipTextTower | ClipEnsemble:
        if not whole_clip:
            return ClipTextTower.load(folders["clip"])
        from corgi_core.encoders.clip import ClipEnsemble

        return ClipEnsemble.load(folders["clip"])

    encoders = settings.preset.encoders
    return Generator(
        clip=clip(),
        tokens=TokenEncoder.load(encoders.text, encoders.text_tokens),
        prior=PriorModel.load(folders["prior"]),
        decoder=load_decoder(folders["decoder"]),
    )


def _folder(settings: Settings, part: str, name: str) -> Path | UPath:
    """A model folder by its path or alias. Before anything is registered, as for data without
    captions, the workspace's own CLIP and decoder are the champions."""
    if "/" in name:
        return Path(name)
    try:
        return registered_folder(settings, part, name)
    except CorgiError:
        assert settings.preset.decoder is not None
        own = {"clip": "clip_encoder", "decoder": f"decoder/{settings.preset.decoder.kind}"}
        if name == CHAMPION and part in own and (there := settings.storage / own[part]).exists():
            return there
        raise


def training_images(settings: Settings, encoder: str) -> TrainingImages:
    """The workspace's training images; CorgiError where they were embedded by other encoders."""
    from corgi_core.data.arrays import ArrayStore
    from corgi_core.data.dataset import Dataset
    from corgi_core.evaluation.nearest import TrainingImages

    return TrainingImages(
        Dataset.load(settings.dataset_folder / "images"),
        ArrayStore.load(settings.storage / "image_embeddings", expect={"encoder": encoder}),
    )
