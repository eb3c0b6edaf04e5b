"""What retrieval costs priors in Fréchet distance and spread: `python -m benchmarks.front`.

More guidance, fewer steps or a contrastive term all buy retrieval with diversity. So one number
says little of a prior: this measures what it reaches for what, beside the linear priors, which
need no diffusion. Settings are chosen on the validation split and reported on the test split.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from upath import UPath

from corgi_core.data.arrays import ArrayStore
from corgi_core.data.dataset import Dataset
from corgi_core.data.keys import SplitKeys
from corgi_core.data.splits import TEST, TRAIN
from corgi_core.encoders.similarity import Retrieval, mean_encoder_cosine, scale_per_encoder
from corgi_core.errors import CorgiError
from corgi_core.evaluation.held_out import HeldOut
from corgi_core.evaluation.split_overlap import SplitOverlap
from corgi_core.experiments.panels import COLOURS, MARKERS, TITLES, new_figure
from corgi_core.io.files import write_json
from corgi_core.metrics.bootstrap import with_intervals
from corgi_core.metrics.frechet import SumsByPart, frechet_by_part
from corgi_core.metrics.jackknife import with_jackknife
from corgi_core.metrics.retrieval import recalls
from corgi_core.metrics.spread import spread
from corgi_core.prior.contrastive_linear import contrastive_prior
from corgi_core.prior.model import PriorModel
from corgi_core.prior.ridge import ridge_prior
from corgi_core.prior.task import Captions, check_encoders
from corgi_core.training.rows import ChosenRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

SAMPLES = 2  # of each caption, for the spread
REAL = "training images"
LINEAR = ("linear", "linear, contrastive")
METRICS = ("cosine", "recall_at_1", "recall_at_5", "frechet", "spread")
Row = dict[str, Any]


@app.command()
def main(
    stores: Annotated[
        Path, typer.Argument(help="The folder with both embeddings and split_overlap.")
    ],
    images: Annotated[Path, typer.Argument(help="The dataset that they are of.")],
    out: Annotated[Path, typer.Argument(help="For front.json, front.md and front.png.")],
    prior: Annotated[list[str], typer.Option(help="NAME=FOLDER of a trained prior, repeatedly.")],
    split: Annotated[str, typer.Option(help="validation to choose by, test to report.")] = TEST,
    captions: Annotated[int, typer.Option(help="Held-out captions, at most.")] = 1000,
    steps: Annotated[str, typer.Option(help="Numbers of sampling steps.")] = "1,2,4,16",
    guidances: Annotated[str, typer.Option(help="Scales of the guidance; 1 is none.")] = "1,1.5,2",
) -> None:
    """Sample every prior with all steps and guidances, and show what each reaches for what.

    For example, of a workspace's storage S and dataset D:
    [bold cyan]python -m benchmarks.front S D out --prior text=S/prior/100%/shifted-text[/bold cyan]
    """
    measured = Measured.load(stores, images, split, captions)
    rows = [*measured.references()]
    for name, model in _priors(prior).items():
        for count, scale in product(_numbers(steps), _numbers(guidances)):
            rows.append(measured.of_prior(name, model, int(count), scale))
            print(_line(rows[-1]), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "front.json", rows)
    (out / "front.md").write_text(table_of(rows), encoding="utf-8")
    figure_of(rows).savefig(out / "front.png", dpi=110)


class Measured:
    """Scores samples of held-out captions; `held_out` are their embeddings and tokens."""

    def __init__(self, held_out: Captions, others: dict[str, Tensor], dims: Sequence[int]) -> None:
        self.held_out, self.others, self.dims = held_out, others, tuple(dims)
        self._real = scale_per_encoder(held_out.image, dims)
        self._sums = _sums(self._real)
        self._retrieval = Retrieval(self._real, dims)

    @classmethod
    def load(cls, stores: Path, images: Path, split: str, captions: int) -> Measured:
        """The held-out captions of a split that count, and what both linear priors predict of them.

        Beside these are as many training images: their Fréchet distance is that of two samples of
        one distribution.
        """
        dataset = Dataset.load(UPath(images))
        image, text = (
            ArrayStore.load(UPath(stores) / name)
            for name in ("image_embeddings", "text_embeddings")
        )
        check_encoders(image, text)
        left_out = SplitOverlap.load(UPath(stores) / "split_overlap").left_out
        chosen = HeldOut.of(dataset, captions, left_out=left_out, split=split)
        held_out = chosen.read(np.arange(len(chosen)), image, text)
        ridge = ridge_prior(dataset, image, text, left_out=left_out)
        contrastive = contrastive_prior(ridge, dataset, image, text)
        predicted = {
            name: each.predict_captions(held_out.text, held_out.tokens)
            for name, each in zip(LINEAR, (ridge, contrastive), strict=True)
        }
        training = ChosenRows(text, SplitKeys(dataset, TRAIN), first_only=True)
        (real,) = training.gather(training.spaced(len(held_out)), (image, "image"))
        predicted[REAL] = real.float()
        return cls(held_out, predicted, image.spec["encoder_dims"])

    def references(self) -> Iterator[Row]:
        """The rows that need no prior: the text embedding, the linear priors, training images."""
        for name, z in {"text embedding": self.held_out.text, **self.others}.items():
            yield {"prior": name, "steps": None, "guidance": None, **self.scores(z.unsqueeze(0))}

    def of_prior(self, name: str, prior: PriorModel, steps: int, guidance: float) -> Row:
        """A prior's row: the scores of one sample a caption, the spread of several."""
        tokens, mask, text, _ = self.held_out.batch(torch.arange(len(self.held_out)))
        samples = [
            prior.sample(tokens, mask, text, num_steps=steps, guidance=guidance, seed=seed)
            for seed in range(SAMPLES)
        ]
        scores = self.scores(torch.stack(samples))
        return {"prior": name, "steps": steps, "guidance": guidance, **scores}

    def scores(self, samples: Tensor) -> Row:
        """Scores with intervals of the first of S samples [S, n, d], and the spread of several."""
        scaled = scale_per_encoder(samples.float(), self.dims)
        z, own = scaled[0], torch.arange(len(self._real))
        by_caption = {
            "cosine": mean_encoder_cosine(z, self._real, self.dims).numpy(),
            **recalls(self._retrieval.nearer(z, own).numpy()),
        }
        value, *left_out = frechet_by_part(_sums(z), self._sums).tolist()
        several = spread(scaled, self._real)["spread"] if len(scaled) > 1 else 0.0
        return {
            **with_intervals(by_caption),
            **with_jackknife("frechet", value, left_out),
            "spread": several,
        }


def table_of(rows: Sequence[Row]) -> str:
    """The rows in Markdown, with 95 % intervals where a score has one."""
    head = ["prior", "steps", "guidance", *METRICS]
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure_of(rows: Sequence[Row]) -> Figure:
    """Recall@5 against the Fréchet distance and against the spread, a line a prior and steps."""
    figure, ((by_frechet, by_spread),) = new_figure("What retrieval costs", 1, 2, sharey=True)
    names = list(dict.fromkeys(row["prior"] for row in rows if row["steps"]))
    steps = list(dict.fromkeys(row["steps"] for row in rows if row["steps"]))
    for panel, x in ((by_frechet, "frechet"), (by_spread, "spread")):
        for row in (each for each in rows if each["prior"] in LINEAR):
            panel.plot(row[x], row["recall_at_5"], "k*", markersize=9)
            panel.annotate(row["prior"], (row[x], row["recall_at_5"]), fontsize=7)
        for (number, name), (look, count) in product(enumerate(names), enumerate(steps)):
            found = [row for row in rows if (row["prior"], row["steps"]) == (name, count)]
            if not found:
                continue
            panel.plot(
                [row[x] for row in found], [row["recall_at_5"] for row in found],
                color=COLOURS[number % len(COLOURS)], marker=MARKERS[look % len(MARKERS)],
                markersize=5, linewidth=1, label=f"{name}, {count} step{'s' * (count > 1)}",
            )  # fmt: skip
        panel.set_xlabel(TITLES[x])
    by_frechet.set_ylabel(TITLES["recall_at_5"])
    by_spread.legend(
        fontsize=6, frameon=False, title="along a line: guidance", title_fontsize=6,
        loc="center left", bbox_to_anchor=(1, 0.5),
    )  # fmt: skip
    return figure


def _priors(words: Sequence[str]) -> dict[str, PriorModel]:
    found = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals:
            raise CorgiError(f"--prior {word!r} names no folder", "write NAME=FOLDER")
        found[name] = PriorModel.load(UPath(folder))
    return found


def _numbers(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise CorgiError(f"{words!r} are not numbers", "separate them with commas: 1,2") from None


def _sums(z: Tensor) -> SumsByPart:
    """Of embeddings scaled to norm 1."""
    return SumsByPart.of((z / z.norm(dim=1, keepdim=True)).numpy())


def _cells(row: Row) -> list[str]:
    cells = [
        row["prior"],
        *(f"{row[name]:g}" if row[name] else "" for name in ("steps", "guidance")),
    ]
    for metric in METRICS:
        interval = ""
        if f"{metric}_ci_low" in row:
            interval = f" ({row[f'{metric}_ci_low']:.3f}–{row[f'{metric}_ci_high']:.3f})"
        cells.append(f"{row[metric]:.3f}{interval}")
    return cells


def _line(row: Row) -> str:
    return " ".join(_cells(row))


if __name__ == "__main__":
    try:
        app()
    except CorgiError as error:
        sys.exit(f"{error}")
