"""The evaluation as an artefact: one JSON of numbers, and the pictures beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Self

from PIL import Image
from upath import UPath

from corgi_core.config import ALL_CAPTIONS, NO_SUBSET
from corgi_core.errors import CorgiError
from corgi_core.evaluation.protocol import Protocol
from corgi_core.io.files import atomic_file, digest_of, local_file, read_json, write_json
from corgi_core.io.folders import atomic_folder, published
from corgi_core.io.pictures import load_pictures, rendered, save_pictures
from corgi_core.metrics.retrieval import RECALL_RANKS

if TYPE_CHECKING:
    import pandas as pd

METRICS, VALIDATION_CAPTIONS = "metrics.json", "validation.parquet"
STRATA = ("near", "far")  # test images with a near neighbour in training, and those without
SHUFFLED = "shuffled"  # a prior's samples, compared with the images of other captions
REAL_EMBEDDING = "real embedding"  # the source of the pictures that a perfect prior would give
REAL_AGAINST_REAL = "real against real"
NEAREST_TO_IMAGE = "nearest training image"
NEAREST_TO_TEXT = "training image nearest to the text"
RANDOM_TRAINING = "random training image"
TEXT_EMBEDDING = "CLIP text embedding"
LINEAR_PRIOR = "linear prior"
CONTRASTIVE_PRIOR = "linear prior, contrastive"
BASELINES = (
    REAL_AGAINST_REAL, NEAREST_TO_IMAGE, NEAREST_TO_TEXT, RANDOM_TRAINING, TEXT_EMBEDDING,
    LINEAR_PRIOR, CONTRASTIVE_PRIOR,
)  # fmt: skip
TRAINING_PICTURES = (NEAREST_TO_IMAGE, RANDOM_TRAINING)
DECODED_BASELINES = (TEXT_EMBEDDING, LINEAR_PRIOR, CONTRASTIVE_PRIOR)
PICTURE_BASELINES = (REAL_AGAINST_REAL, *TRAINING_PICTURES, *DECODED_BASELINES)
"""The rows that every table of pictures begins with."""
TIMES = ("seconds", "wall_seconds")
UNTRAINED, LINEAR = (NEAREST_TO_TEXT, TEXT_EMBEDDING), (LINEAR_PRIOR, CONTRASTIVE_PRIOR)
"""The baselines that know the caption alone, as a prior does: those that learned from no captions,
and those that learned from all of them."""
SCORES = ("cosine", *(f"recall_at_{rank}" for rank in RECALL_RANKS))  # of a prior

Samples = dict[tuple[str, str], list[tuple[str, Image.Image]]]
"""By (variant, caption subset): captions, and the picture that was decoded for each."""


@dataclass
class Evaluation:
    """`metrics` by variant, caption subset and number of steps; `pictures` by file stem.

    `validation` has the scores of every validation caption, a row each: "model", a prior's digest
    or a baseline's name, and what `CaptionScores` has. None where nothing is chosen.

    Not stored with the evaluation are `samples`, the grids' pictures one by one, `seeds`, pictures
    of the same captions by further seeds, and `captions`, the scores of every test caption by
    model, as `CaptionScores` has them.
    """

    metrics: dict[str, Any]
    pictures: dict[str, Image.Image] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)
    seeds: dict[int, Samples] = field(default_factory=dict)
    captions: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    validation: pd.DataFrame | None = None

    @property
    def protocol(self) -> Protocol:
        """How the numbers were measured; CorgiError where an older version of Corgi wrote them."""
        return Protocol.stored_in(self.metrics)

    @property
    def digest(self) -> str:
        """Of the numbers, wall times left out: measuring again the same gives the same digest."""
        return digest_of(_without(self.metrics, TIMES))

    def check_rows(self) -> None:
        """Raise CorgiError, which names it, where a row is missing that every report has.

        These are `BASELINES`, each prior's shuffled captions, and where there are pictures
        `PICTURE_BASELINES`, and each prior's pictures with their shuffled captions.
        """
        steps, of_priors = str(self.protocol.prior_steps), self.metrics.get("baselines", {})
        missing = [name for name in BASELINES if name not in of_priors]
        of_every_prior = {
            (variant, subset): by_steps
            for variant, subsets in self.metrics["priors"].items()
            for subset, by_steps in subsets.items()
        }
        missing += [
            f"{variant}, {subset}, {SHUFFLED} captions"
            for (variant, subset), by_steps in of_every_prior.items()
            if SHUFFLED not in by_steps.get(steps, {})
        ]
        if "pictures" in self.metrics:
            of_pictures = self.metrics["pictures"]
            missing += [f"{n} (pictures)" for n in PICTURE_BASELINES if n not in of_pictures]
            for variant, subset in of_every_prior:
                scores = of_pictures.get(variant, {}).get(subset)
                if scores is None:
                    missing.append(f"{variant}, {subset} (pictures)")
                elif SHUFFLED not in scores:
                    missing.append(f"{variant}, {subset}, {SHUFFLED} captions (pictures)")
        if missing:
            raise CorgiError(
                f"the report lacks a row without which its scores say little: {missing[0]}",
                "evaluate again with this version of Corgi, which measures all of them",
            )

    def save(self, folder: Path | UPath) -> None:
        """Write metrics.json and the pictures, whole or not at all.

        Raises CorgiError where a row is missing, as `check_rows` does.
        """
        self.check_rows()
        with atomic_folder(folder) as temporary:
            write_json(temporary / METRICS, self.metrics)
            save_pictures(temporary, self.pictures)
            if self.validation is not None:
                with atomic_file(temporary / VALIDATION_CAPTIONS) as file:
                    self.validation.to_parquet(file, index=False)

    @classmethod
    def load(cls, folder: Path | UPath) -> Self:
        """Read what `save` wrote; CorgiError where there is no evaluation."""
        folder = published(folder)
        if not (folder / METRICS).exists():
            raise CorgiError(f"{folder} holds no evaluation", "materialise `evaluation`")
        validation = _table_in(folder / VALIDATION_CAPTIONS)
        return cls(read_json(folder / METRICS), load_pictures(folder), validation=validation)

    def publish(self, folder: Path) -> None:
        """Write metrics.json, which `dvc metrics show` reads, and the pictures to a folder.

        Other files there stay, unlike under `save`. Raises CorgiError where a row is missing.
        """
        self.check_rows()
        write_json(folder / METRICS, self.metrics)
        for name, image in self.pictures.items():
            with atomic_file(folder / f"{name}.png") as temporary, temporary.open("wb") as file:
                image.save(file, format="PNG")

    def baseline_table(self) -> pd.DataFrame:
        """One row a baseline, and one for each prior's shuffled captions: baseline, cosine, ….

        The columns are those of `prior_table`, without the steps. "captions" is the subset whose
        captions were learned from, or `NO_SUBSET`.
        """
        import pandas as pd

        steps = str(self.metrics["protocol"]["prior_steps"])
        rows = [
            {"baseline": name, "captions": NO_SUBSET, **_numbers(scores), **by_stratum(scores)}
            for name, scores in self.metrics["baselines"].items()
        ]
        rows += [
            {
                "baseline": f"{name}, {SHUFFLED} captions",
                "captions": NO_SUBSET,
                **_numbers(scores[SHUFFLED]),
                **by_stratum(scores[SHUFFLED]),
            }
            for name, scores in self.metrics["baselines"].items()
            if SHUFFLED in scores
        ]
        rows += [
            {
                "baseline": f"{variant}, {SHUFFLED} captions",
                "captions": subset,
                **_numbers(by_steps[steps][SHUFFLED]),
                **by_stratum(by_steps[steps][SHUFFLED]),
            }
            for variant, subsets in self.metrics["priors"].items()
            for subset, by_steps in subsets.items()
        ]
        return pd.DataFrame(rows)

    def prior_table(self) -> pd.DataFrame:
        """One row a prior and number of steps: variant, captions, steps, cosine, recalls.

        Each score with the ends of its interval ("cosine_ci_low", "cosine_ci_high"). And the same
        as "cosine_near", "cosine_far" and so on, of the images with a near neighbour among the
        training images, and of those without.
        """
        import pandas as pd

        rows = [
            {
                "variant": variant,
                "captions": subset,
                "steps": int(steps),
                **_numbers(scores),
                **by_stratum(scores),
            }
            for variant, subsets in self.metrics["priors"].items()
            for subset, by_steps in subsets.items()
            for steps, scores in by_steps.items()
        ]
        return pd.DataFrame(rows)

    def validation_table(self) -> pd.DataFrame:
        """One row a prior, of the images that it is chosen on; empty where nothing is chosen."""
        import pandas as pd

        rows = [
            {"variant": variant, "captions": subset, **_numbers(scores)}
            for variant, subsets in self.metrics.get("validation", {}).get("priors", {}).items()
            for subset, scores in subsets.items()
        ]
        return pd.DataFrame(rows)

    def picture_table(self) -> pd.DataFrame:
        """One row for each source of embeddings, the baselines first; empty without pictures.

        After the rows of what was predicted from captions come those of the same pictures beside
        other captions. The columns have the scores of the strata too, as those of `prior_table`; a
        stratum of too few pictures for a score has none.
        """
        import pandas as pd

        every = [
            (source, subset, scores)
            for source, subsets in self.metrics.get("pictures", {}).items()
            for subset, scores in subsets.items()
        ]
        every += [
            (f"{source}, {SHUFFLED} captions", subset, scores[SHUFFLED])
            for source, subset, scores in every
            if SHUFFLED in scores
        ]
        rows = [
            {
                "embeddings": source,
                "captions": subset,
                **_numbers(scores),
                **by_stratum(scores),
            }
            for source, subset, scores in every
        ]
        return pd.DataFrame(rows)

    def best_prior(self, among: Collection[tuple[str, str]] | None = None) -> tuple[str, str]:
        """The prior with the highest validation cosine at the preset's number of sampling steps.

        Args:
            among: The priors to choose from; all of them by default.

        Returns:
            Its variant and caption subset.

        Raises:
            CorgiError: the evaluation has no validation scores, as those of older versions.
        """
        if "validation" not in self.metrics:
            raise CorgiError(
                "the evaluation has no validation scores", "materialise `evaluation` again"
            )
        cosines = {
            (variant, subset): scores["cosine"]
            for variant, subsets in self.metrics["validation"]["priors"].items()
            for subset, scores in subsets.items()
            if among is None or (variant, subset) in among
        }
        return max(cosines, key=lambda name: cosines[name])


def cosine_curves(metrics: dict[str, Any]) -> Image.Image:
    """A panel for each caption subset; the linear prior's and the text embedding's own cosine.

    The linear prior is fitted to all captions, so it is in the panel of those priors alone that
    are too.
    """
    from matplotlib.figure import Figure

    priors = metrics["priors"]
    subsets = list(dict.fromkeys(subset for by_subset in priors.values() for subset in by_subset))
    figure = Figure(figsize=(4 * len(subsets), 3.4), layout="constrained")
    panels = figure.subplots(1, len(subsets), sharey=True, squeeze=False)[0]
    for panel, subset in zip(panels, subsets, strict=True):
        for variant, by_subset in priors.items():
            if subset in by_subset:
                steps = sorted(by_subset[subset], key=int)
                cosines = [by_subset[subset][s]["cosine"] for s in steps]
                panel.plot([int(s) for s in steps], cosines, marker="o", label=variant)
        fair = [(LINEAR_PRIOR, "-.")] if subset == ALL_CAPTIONS else []
        for baseline, style in (*fair, (TEXT_EMBEDDING, "--")):
            cosine = metrics["baselines"][baseline]["cosine"]
            panel.axhline(cosine, color="grey", linestyle=style, label=baseline)
        panel.set_xscale("log", base=2)
        panel.set_title(f"{subset} of the captions")
        panel.set_xlabel("sampling steps")
    panels[0].set_ylabel("cosine on test images")
    figure.supxlabel("\n".join(wrap(Protocol.stored_in(metrics).line, 70 * len(subsets))), size=6)
    panels[-1].legend(fontsize="small")
    return rendered(figure)


def by_stratum(scores: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the strata within scores, by names that say which: "cosine_near"."""
    return {
        f"{name}_{stratum}": value
        for stratum in STRATA
        for name, value in _numbers(scores.get(stratum, {})).items()
    }


def _table_in(path: Path | UPath) -> pd.DataFrame | None:
    """A Parquet file's table; None where there is no such file."""
    import pandas as pd

    if not path.exists():
        return None
    with local_file(path) as file:
        return pd.read_parquet(file)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, int | float)}


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    return value
