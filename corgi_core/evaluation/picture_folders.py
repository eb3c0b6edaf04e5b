"""Two folders of pictures, from any model: their features, and what makes them incomparable.

What is compared is what pictures show. A JPEG's artefacts, another size or white bars set two sets
apart too, so sets that differ in them are refused.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from corgi_core.errors import CorgiError
from corgi_core.evaluation.picture_features import DINOV2, INCEPTION
from corgi_core.evaluation.picture_manifolds import NEAREST
from corgi_core.evaluation.picture_statistics import KERNELS
from corgi_core.evaluation.set_scores import check_enough_for_fid, frechet_scores, vendi_scores
from corgi_core.io.files import atomic_file, digest_of
from corgi_core.metrics.bootstrap import sum_with_interval, with_intervals
from corgi_core.metrics.dinov2 import Dinov2Features
from corgi_core.metrics.features import Features, in_their_span
from corgi_core.metrics.frechet import SumsByPart, bias_of_two, frechet_by_part
from corgi_core.metrics.inception import InceptionFeatures
from corgi_core.metrics.mmd import mmd_influences
from corgi_core.metrics.precision_recall import DENSE_NEIGHBOURS, NEIGHBOURS, Manifold, inside
from corgi_core.metrics.vendi import vendi_by_part
from corgi_core.progress import report

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMAT = 4  # of a file of features
BATCH = 32  # pictures in memory
EDGE = 8  # levels of 255 by which the pixels of a bar may differ, as a JPEG's do
APART = 0.3  # the difference of two sets' shares of pictures with bars from which on they differ
NAMED = 3  # of the files that cannot be read
FEATURES, ABOUT = "features", "corgi"  # names in a file


class Extractor(Protocol):
    """What makes features [n, d] of images [n, 3, s, s] in [0, 1]."""

    @property
    def digest(self) -> str:
        """Names its weights."""

    def __call__(self, images: Tensor) -> Features:
        """The features."""


@dataclass(frozen=True)
class Prepared:
    """How the pictures of a set were prepared.

    Attributes:
        encoding: Of their files, such as "PNG".
        size: Pixels to a side.
        bars: The share of them with bars of one colour at two opposite sides, and not at all four.
    """

    encoding: str
    size: int
    bars: float


@dataclass(frozen=True)
class FolderFeatures:
    """The features of a folder's pictures, and what they are of.

    Attributes:
        folder: Where the pictures were.
        files: Names the files; see `fingerprint`.
        extractor: "inception" or "dinov2".
        weights: The digest of its weights.
        prepared: How the pictures were prepared.
        features: One row a picture, in the order of the files' names [n, d].
        bias: Of their Fréchet distance; None for fewer than eight pictures.
        nearest: Squared distances of each to its nearest others, as `Manifold` has them.
    """

    folder: str
    files: str
    extractor: str
    weights: str
    prepared: Prepared
    features: Features
    bias: float | None
    nearest: NDArray[np.float64]

    @property
    def protocol(self) -> str:
        """How the pictures are measured, in a line: by which weights, and prepared how."""
        about = self.prepared
        return f"by {self.extractor} {self.weights}; {about.encoding} of {about.size}² pixels"

    @property
    def manifold(self) -> Manifold:
        """The balls around the features."""
        return Manifold(self.features, self.nearest)

    @classmethod
    def of(cls, folder: Path, name: str, extractor: Extractor) -> Self:
        """Compute the features of all pictures below a folder, a batch of them in memory.

        Args:
            folder: The pictures, square and all of one size and encoding.
            name: INCEPTION or DINOV2.
            extractor: The network.

        Raises:
            CorgiError: the folder has no pictures, one is damaged, they are not alike in size and
                encoding, or they changed meanwhile.
        """
        files, paths = fingerprint(folder), pictures_in(folder)
        features, kinds, bars = list[Features](), set[tuple[str, int]](), 0
        for first in range(0, len(paths), BATCH):
            images, prepared = _read(paths[first : first + BATCH])
            bars += int(_has_bars(images).sum())
            if len(kinds := kinds | prepared) > 1:
                listed = ", ".join(f"{encoding} of {size}²" for encoding, size in sorted(kinds))
                raise CorgiError(
                    f"the pictures in {folder} are not alike: {listed}",
                    "bring all to one size and one encoding, best PNG",
                )
            features.append(extractor(torch.from_numpy(images).float() / 255))
            report(f"features of {folder.name}", min(first + BATCH, len(paths)), len(paths))
        if fingerprint(folder) != files:
            raise CorgiError(
                f"the pictures in {folder} changed while they were read",
                "wait until nothing writes there, and compare again",
            )
        ((encoding, size),) = kinds
        found = np.concatenate(features)
        (spanned,) = in_their_span([found])
        neighbours = max(NEIGHBOURS, min(DENSE_NEIGHBOURS, len(found) - 1))
        return cls(
            str(folder.absolute()), files, name, extractor.digest,
            Prepared(encoding, size, bars / len(paths)), found,
            SumsByPart.of(spanned).bias, Manifold.of(found, neighbours).nearest,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the features, their bias and balls to a safetensors file, to compare with again."""
        about = {
            "format": FORMAT, "folder": self.folder, "files": self.files,
            "extractor": self.extractor, "weights": self.weights, "prepared": asdict(self.prepared),
            "bias": self.bias,
        }  # fmt: skip
        arrays = {FEATURES: self.features, NEAREST: self.nearest}
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        content = save(stored, {ABOUT: json.dumps(about)})
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: Path, extractor: Extractor) -> Self:
        """Read what `save` wrote.

        Args:
            path: The file.
            extractor: The network that the other set's features are computed by.

        Raises:
            CorgiError: the file is none of these or damaged, its features are of other weights, or
                the pictures in its folder have changed since.
        """
        again = "compute them again from the folder (--save)"
        try:
            with safe_open(str(path), "numpy") as file:
                about = json.loads((file.metadata() or {})[ABOUT])
                names = (FEATURES, NEAREST) if about["format"] == FORMAT else ()
                arrays = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CorgiError(
                f"{path} holds no features ({str(error).splitlines()[0]})", again
            ) from error
        if about.pop("format") != FORMAT:
            raise CorgiError(f"{path} was written by another version", again)
        found = cls(**about | arrays | {"prepared": Prepared(**about["prepared"])})
        if found.weights != extractor.digest:
            raise CorgiError(
                f"the features in {path} are of {found.extractor} {found.weights}, and the other "
                f"set's are of {extractor.digest}",
                f"give the same weights, or {again}",
            )
        folder = Path(found.folder)
        if folder.is_dir() and fingerprint(folder) != found.files:
            raise CorgiError(f"the pictures in {folder} have changed since {path} was made", again)
        return found


def compared(real: FolderFeatures, generated: FolderFeatures) -> dict[str, float]:
    """The metrics of two sets of pictures by one extractor.

    Returns:
        "fid", "fid_bias" and "kid", or "frechet_dinov2" and so on; "precision", "recall", "density"
        and "coverage", "vendi" of the generated ones; "count" and "real_count". Beside each score
        but the bias are the ends of its interval, as in an evaluation: by the jackknife of parts of
        both sets, or by the bootstrap over the pictures that it is a mean of.

    Raises:
        CorgiError: the sets differ in extractor, size, encoding or bars, or are too small.
    """
    check_comparable(real, generated)
    if real.extractor == INCEPTION:
        check_enough_for_fid(min(len(real.features), len(generated.features)))
    ours, theirs = map(SumsByPart.of, in_their_span([generated.features, real.features]))
    bias, (name, kernel) = bias_of_two(generated.bias, real.bias), KERNELS[real.extractor]
    found = frechet_scores(real.extractor, frechet_by_part(ours, theirs), bias)
    found |= sum_with_interval(name, mmd_influences(real.features, generated.features, kernel))
    manifold = inside(real.manifold, generated.manifold).by_feature
    if len(real.features) <= DENSE_NEIGHBOURS:
        del manifold["density"], manifold["coverage"]
    for score, by_picture in manifold.items():
        found |= with_intervals({score: by_picture})
    found |= vendi_scores(vendi_by_part(generated.features))
    return found | {"count": len(generated.features), "real_count": len(real.features)}


def check_comparable(real: FolderFeatures, generated: FolderFeatures) -> None:
    """Raise CorgiError where two sets differ in more than what their pictures show."""
    if (real.extractor, real.weights) != (generated.extractor, generated.weights):
        raise CorgiError(
            f"the features are of {real.extractor} {real.weights} and of {generated.extractor} "
            f"{generated.weights}",
            "compute the features of both sets by the same weights",
        )
    one, other = real.prepared, generated.prepared
    for what, first, second in (
        ("encoding", one.encoding, other.encoding),
        ("size", one.size, other.size),
    ):
        if first != second:
            raise CorgiError(
                f"the sets differ in {what}: {real.folder} has {first}, {generated.folder} has "
                f"{second}, which alone would set them apart",
                f"bring both sets to the same {what}, from the originals",
            )
    if abs(one.bars - other.bars) > APART:
        raise CorgiError(
            f"{one.bars:.0%} of the pictures in {real.folder} have bars at two sides, and "
            f"{other.bars:.0%} of those in {generated.folder}: one set is letterboxed",
            "frame both sets alike: crop the centre of both, or pad both",
        )


def pictures_in(folder: Path) -> list[Path]:
    """The files of pictures below a folder, by name; CorgiError where there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise CorgiError(f"{folder} has no pictures", f"give a folder of {', '.join(SUFFIXES)}")
    return found


def fingerprint(folder: Path) -> str:
    """Names the pictures below a folder by their files' names, sizes and times of change."""
    found = [(str(path.relative_to(folder)), path.stat()) for path in pictures_in(folder)]
    return digest_of([(name, about.st_size, about.st_mtime_ns) for name, about in found])


def _read(paths: Sequence[Path]) -> tuple[NDArray[np.uint8], set[tuple[str, int]]]:
    """Pictures uint8 [n, 3, s, s], with their encodings and sizes."""
    pictures, prepared, damaged = list[NDArray[np.uint8]](), set[tuple[str, int]](), list[Path]()
    for path in paths:
        try:
            with Image.open(io.BytesIO(path.read_bytes())) as picture:
                kind, (width, height) = picture.format or "?", picture.size
                pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            damaged.append(path)
            continue
        if width != height:
            raise CorgiError(
                f"{path} has {width} × {height} pixels and is no square",
                "crop or pad the pictures of both sets alike first",
            )
        prepared.add((kind, width))
        pictures.append(pixels)
    if damaged:
        names = ", ".join(str(path) for path in damaged[:NAMED])
        more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        raise CorgiError(
            f"{names}{more} cannot be read as pictures", "make them again, or take them away"
        )
    if len(prepared) > 1:  # they cannot be stacked; the caller says what differs
        return np.zeros((0, 3, 1, 1), np.uint8), prepared
    return np.stack(pictures), prepared


def _has_bars(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether both outer rows or both outer columns have one colour [n].

    Where all four have, that is a background, such as a product's on white.
    """

    def flat(line: NDArray[np.uint8]) -> NDArray[np.bool_]:
        spread = line.max(axis=-1).astype(int) - line.min(axis=-1)
        alike: NDArray[np.bool_] = (spread <= EDGE).all(axis=1)
        return alike

    rows = flat(images[:, :, 0]) & flat(images[:, :, -1])
    columns = flat(images[..., 0]) & flat(images[..., -1])
    return rows ^ columns


def extractor_of(
    inception: str | None, dinov2: str | None, device: torch.device | str
) -> tuple[str, Extractor]:
    """The network whose weights are given, with its name.

    Raises:
        CorgiError: none or both are given, or it cannot be read.
    """
    if (inception is None) == (dinov2 is None):
        raise CorgiError(
            f"{'no network is' if inception is None else 'two networks are'} given to compare by",
            "give --inception FILE (a TorchScript Inception) or --dinov2 FOLDER",
        )
    if inception is not None:
        return INCEPTION, InceptionFeatures(inception, device)
    assert dinov2 is not None
    return DINOV2, Dinov2Features(dinov2, device)
