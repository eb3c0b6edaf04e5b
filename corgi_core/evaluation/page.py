"""An evaluation as one page of HTML that loads nothing, to be read, sent and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from corgi_core.config import ALL_CAPTIONS, NO_SUBSET
from corgi_core.evaluation.charts import CHART_STYLE, Dot, Mark, Point, by_steps, dots, trade_off
from corgi_core.evaluation.findings import findings
from corgi_core.evaluation.paper_figures import Beside, paper_figures
from corgi_core.evaluation.protocol import Protocol
from corgi_core.evaluation.published import published_under
from corgi_core.evaluation.report import (
    LINEAR_PRIOR,
    STRATA,
    Evaluation,
    Samples,
)
from corgi_core.evaluation.score_rows import (
    BIAS,
    DISTANCES,
    Kind,
    ScoreRow,
    better_side,
    label,
    picture_rows,
    prior_name,
    prior_rows,
    score_names,
    validation_rows,
)
from corgi_core.io.files import atomic_file
from corgi_core.io.html_pages import (
    SORTING,
    TABLE_STYLE,
    Cell,
    head,
    paragraph,
    picture,
    section,
    table,
    webp,
)

PAGE = "report.html"
PICTURE_BYTES = 2_000_000  # of all pictures; as data in the page a third more
LARGEST, SMALLEST, SMALLER = 256, 24, 0.8  # pixels of a picture's longer side; the next size
CAPTIONS = 48  # whose pictures are displayed, at most
NOTHING_BESIDE = Beside()
CHARTED = ("cosine", "recall_at_1")
PAGE_STYLE = """
:root { --accent: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --accent: #fb923c; } }
h2 { border-top: 1px solid #8885; margin-top: 2rem; padding-top: 1rem; }
p, ul { max-width: 46rem; }
a { color: var(--accent); overflow-wrap: anywhere; }
dl { display: grid; gap: .2rem 1rem; grid-template-columns: max-content 1fr; }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .6rem 0; }
article { margin: 1rem 0; }
article h3 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.pictures { gap: .6rem 1rem; }
.seeds { display: flex; gap: 2px; }
.seeds img { aspect-ratio: 1; border-radius: 4px; display: block; image-rendering: pixelated;
  object-fit: contain; width: 5.5rem; }
.plots img { background: white; display: block; height: auto; margin: .6rem 0; max-width: 100%; }
"""
ABOUT_PRIORS = (
    "How near each embedding is to the true one of the image, and whether the true image is among "
    "the nearest of all. Below each score are the ends of its 95 % interval over captions; it does "
    "not say how far another seed of the training would move the score. Intervals of two rows may "
    "overlap where their difference is certain: compare two priors with "
    "`corgi compare-runs`. The cosine alone rewards predicting the mean. The linear priors are "
    "fitted to all captions: a prior that learned from all and is not above them has not earned "
    "its network, and one that learned from fewer is not judged by them. The distance to its own "
    "control, the shuffled captions, is what it took from the caption."
)
ABOUT_STRATA = (
    "The same scores of the test images that have a near neighbour in training, and of those that "
    "have none. A model that memorises is better on the near ones alone. Retrieval is among all "
    "images, and the balls of precision and its like are those of all. Distances of sets and the "
    "Vendi score depend on how many pictures there are: compare rows within a stratum, and not the "
    "strata. Of fewer pictures than a score needs the table says that they are too few."
)
ABOUT_STEPS = "Each prior by its number of sampling steps, with 95 % intervals over captions."
ABOUT_VALIDATION = (
    "The priors are chosen by these scores, of other images. None was chosen by the scores above."
)
ABOUT_PICTURES = (
    "Pictures that the decoder makes of embeddings, compared with the real images, each counted "
    'once. Those of the real embedding are what a perfect prior would give. "Own CLIP" marks '
    "scores by the encoder that the models are conditioned on, which favours them; Inception and "
    "DINOv2 are independent judges, where they are there. Below a Fréchet distance is its bias: "
    "an estimate of how far apart two sets of so many pictures are that differ in nothing; below a "
    "Vendi score, how far it lies from that of endlessly many pictures, at least. ↑ and ↓ "
    "say which side is better. This corresponds to the paper's Tables 1 and 2. Values of "
    "other data, counts or judges are of another protocol."
)
ABOUT_CONTROLS = (
    "The controls: the same pictures, compared with the captions and the images of others. What a "
    "row above has more is what its pictures took from the caption."
)
ABOUT_GUIDANCE = (
    "The numbers beside the points are the decoder's guidance scales. More guidance buys nearness "
    "to the caption with distance from the real images: of two curves, the one that is lower "
    "and further right is better, and a single point proves nothing. The pictures are of test "
    "captions: a scale that is chosen here is chosen on the test images, and its scores there are "
    "no longer those of unseen ones."
)
ABOUT_SAMPLES = (
    "Test captions at even distances, not the best ones: a row for each, in it every source, with "
    "the same decoder, and from left to right the seeds {seeds}; a single picture is of the first "
    "seed, or has none. Where a source's pictures of one caption are all alike, it has little "
    "diversity. Pictures are scaled down where they are many."
)


def write_page(
    report: Evaluation,
    folder: Path,
    title: str,
    provenance: Mapping[str, str],
    beside: Beside = NOTHING_BESIDE,
) -> Path:
    """Write the page of an evaluation into a folder, whole or not at all; see `page`."""
    path = folder / PAGE
    content = page(report, title, provenance, beside)
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def page(
    report: Evaluation,
    title: str,
    provenance: Mapping[str, str],
    beside: Beside = NOTHING_BESIDE,
) -> str:
    """The page: findings, tables with the baselines first, charts, pictures, all numbers.

    Args:
        report: The numbers, and the pictures by source, each source's of the same captions.
        title: The page's heading.
        provenance: What the numbers were made from and by; web addresses become links.
        beside: The workspace's other reports, which the paper's other figures are made from.

    Returns:
        HTML of a few megabytes at most. It loads nothing from elsewhere.

    Raises:
        CorgiError: a row that every table must have is not there, or the protocol is not complete.
    """
    report.check_rows()
    metrics, samples = report.metrics, report.samples
    rows, pictures, chosen_by = prior_rows(metrics), picture_rows(metrics), validation_rows(metrics)
    steps = metrics["protocol"]["prior_steps"]
    parts = [
        head(title, TABLE_STYLE + CHART_STYLE + PAGE_STYLE),
        "<ul>", *(f"<li>{escape(each)}</li>" for each in findings(metrics)), "</ul>",
        section("Protocol", Protocol.stored_in(metrics).line),
        _definitions(_flat(metrics["protocol"])),
        section(f"Priors at {steps} sampling steps", ABOUT_PRIORS),
        _score_table(rows, score_names(rows)),
        _charts(rows),
    ]  # fmt: skip
    if _in_strata(rows):
        parts += [section("Near training, and far from it", ABOUT_STRATA)]
        parts += [_strata_table(each) for each in (rows, pictures) if _in_strata(each)]
    parts += [section("By sampling steps", ABOUT_STEPS), _curves(metrics)]
    if chosen_by:
        parts.append(section("Validation", ABOUT_VALIDATION))
        parts.append(_score_table(chosen_by, score_names(chosen_by)))
    if pictures:
        parts.append(section("Pictures", ABOUT_PICTURES))
        controls = [row for row in pictures if row.kind is Kind.CONTROL]
        others = [row for row in pictures if row.kind is not Kind.CONTROL]
        parts.append(_score_table(others, score_names(others)))
        if controls:
            parts += [paragraph(ABOUT_CONTROLS), _score_table(controls, score_names(controls))]
        parts.append(_published(Protocol.stored_in(metrics).name, score_names(pictures)))
    if metrics.get("guidances"):
        parts += [section("By the decoder's guidance", ABOUT_GUIDANCE), _guidance(metrics)]
    if samples:
        parts.append(_samples(samples, report.seeds, metrics["protocol"]["seed"]))
    every = [[Cell(name, name), _cell(value)] for name, value in _flat(metrics).items()]
    parts += [
        "<h2>The paper's figures</h2>\n", paper_figures(metrics, beside),
        section("Provenance", "What the numbers were made from, and by."),
        _definitions({**provenance, **beside.versions}),
        section("All numbers", "As in `metrics.json`, with all digits."),
        "<details><summary>Show them</summary>", table(["name", "value"], every), "</details>",
        f"<script>{SORTING}</script>\n",
    ]  # fmt: skip
    return "".join(parts)


def _definitions(values: Mapping[str, Any]) -> str:
    """Names and values; an address of the web is a link."""
    lines = []
    for name, value in values.items():
        text = escape(str(value))
        if text.startswith(("http://", "https://")):
            text = f'<a href="{text}" rel="noreferrer">{text}</a>'
        lines.append(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{text}</dd>")
    return f"<dl>{''.join(lines)}</dl>\n"


def _score_table(rows: Sequence[ScoreRow], names: Sequence[str]) -> str:
    heads = ["row", "kind", *(f"{label(n)} {better_side(n).value}".strip() for n in names)]
    cells = [
        [Cell(row.name, row.name), Cell(row.kind.value, row.kind.value),
         *(_score(row, name) for name in names), _cell(row.scores.get("count"))]
        for row in rows
    ]  # fmt: skip
    return table([*heads, "count"], cells)


def _score(row: ScoreRow, name: str) -> Cell:
    """A score, and below it its interval and its bias."""
    point = row.point(name)
    if point is None:
        return Cell("–", None)
    value, low, high = point
    notes = [f"{low:.4f} – {high:.4f}"] if low < high else []
    notes += [f"bias {row.scores[name + BIAS]:.4f}"] if name + BIAS in row.scores else []
    return Cell(f"{value:.4f}", value, ", ".join(notes))


def _cell(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:,}" if isinstance(value, int) else repr(value), value)
    return Cell("–", None) if value is None else Cell(str(value), str(value))


def _in_strata(rows: Sequence[ScoreRow]) -> bool:
    return any(part in row.scores for row in rows for part in STRATA)


def _strata_table(rows: Sequence[ScoreRow]) -> str:
    """The scores of both strata, of the rows that have them."""
    rows = [row for row in rows if _in_strata([row])]
    every = [_of_stratum(row, part) for row in rows for part in STRATA]
    names = score_names([*rows, *every])
    heads = ["row", *(f"{part}: {label(n)}" for part in STRATA for n in (*names, "count"))]
    cells = []
    for row in rows:
        of_row = [Cell(row.name, row.name)]
        for part in STRATA:
            stratum = _of_stratum(row, part)
            count = stratum.scores.get("count")
            few = f"too few ({count})"
            of_row += [
                Cell(few, None) if name in row.scores and name not in stratum.scores
                else _score(stratum, name)
                for name in names
            ]  # fmt: skip
            of_row.append(_cell(count))
        cells.append(of_row)
    return table(heads, cells)


def _of_stratum(row: ScoreRow, part: str) -> ScoreRow:
    """A row's scores of one stratum."""
    return ScoreRow(row.name, row.kind, row.scores.get(part, {}))


def _charts(rows: Sequence[ScoreRow]) -> str:
    charts = []
    for name in CHARTED:
        known = [
            Dot(row.name, Point(*point), row.kind is Kind.BASELINE)
            for row in rows
            if row.kind is not Kind.CONTROL and (point := row.point(name))
        ]
        if known:
            charts.append(dots(f"{label(name)}, with 95 % intervals over captions", known))
    return f'<div class="charts">{"".join(charts)}</div>\n'


def _curves(metrics: Mapping[str, Any]) -> str:
    """For each caption subset the cosine and the first recall over the number of steps."""
    priors = metrics["priors"]
    subsets = dict.fromkeys(subset for by_subset in priors.values() for subset in by_subset)
    charts = []
    for subset in subsets:
        for name in CHARTED:
            series = {
                variant: {
                    int(steps): Point(*point)
                    for steps, scores in by_subset[subset].items()
                    if (point := ScoreRow(variant, Kind.PRIOR, scores).point(name))
                }
                for variant, by_subset in priors.items()
                if subset in by_subset
            }
            linear = metrics["baselines"][LINEAR_PRIOR].get(name)
            if linear is not None and all(series.values()):
                title = f"{label(name)}, trained with {subset} of the captions"
                fair = {LINEAR_PRIOR: linear} if subset == ALL_CAPTIONS else {}
                charts.append(by_steps(title, series, fair, label(name)))
    return f'<div class="charts">{"".join(charts)}</div>\n'


def _guidance(metrics: Mapping[str, Any]) -> str:
    """The Fréchet distance of the most independent judge over the CLIP score.

    A chart for each caption subset; what has none, such as the real embedding, is in all of them.
    The titles say the largest bias of the distances.
    """
    guidances = metrics["guidances"]
    rows = {
        (subset, source, guidance): ScoreRow(source, Kind.PRIOR, scores)
        for guidance, by_source in guidances.items()
        for source, by_subset in by_source.items()
        for subset, scores in by_subset.items()
    }
    judge = next(name for name in DISTANCES if name in next(iter(rows.values())).scores)
    subsets = dict.fromkeys(s for s, _, _ in rows if s != NO_SUBSET) or {NO_SUBSET: None}
    biases = [r.scores[judge + BIAS] for r in rows.values() if judge + BIAS in r.scores]
    bias = f" (bias up to {max(biases):.4g})" if biases else ""
    charts = []
    for subset in subsets:
        series: dict[str, list[Mark]] = {}
        for (of, source, guidance), row in rows.items():
            point = row.point(judge)
            if of in (subset, NO_SUBSET) and point is not None:
                mark = Mark(row.scores["clip_score"], Point(*point), guidance)
                series.setdefault(source, []).append(mark)
        trained = "" if subset == NO_SUBSET else f", priors trained with {subset} of the captions"
        title = f"{label(judge)}{bias} by {label('clip_score')}{trained}"
        charts.append(trade_off(title, series, (label("clip_score"), label(judge))))
    return f'<div class="charts">{"".join(charts)}</div>\n'


def _published(protocol: str | None, names: Sequence[str]) -> str:
    """What papers report of the scores under a named protocol, apart from our own table."""
    found = published_under(protocol, names)
    if not found:
        return ""
    rows = [
        [Cell(each.model, each.model), Cell(label(each.metric), label(each.metric)),
         Cell(f"{each.value:.2f}", each.value), Cell(each.source, each.source)]
        for each in found
    ]  # fmt: skip
    title = f"Published under the protocol {protocol}: not measured here"
    return f"<h3>{escape(title)}</h3>\n{table(['published', 'score', 'value', 'source'], rows)}"


def _samples(samples: Samples, seeds: Mapping[int, Samples], first: int) -> str:
    """Each caption with the pictures of every source and seed, within `PICTURE_BYTES` together.

    Args:
        samples: Of the first seed, and of sources without seeds such as the real images.
        seeds: Of further seeds.
        first: The first seed.
    """
    by_seed = {first: samples, **seeds}
    every = [(name, seed) for name in samples for seed, each in by_seed.items() if name in each]
    sources = [name for name, _ in every]
    captions = [caption for caption, _ in next(iter(samples.values()))][:CAPTIONS]
    contents = _within_bytes(
        [[image for _, image in by_seed[seed][name][:CAPTIONS]] for name, seed in every]
    )
    about = ABOUT_SAMPLES.format(seeds=", ".join(map(str, by_seed)))
    parts = [section("Pictures of the same captions", about)]
    for number, caption in enumerate(captions):
        figures: dict[str, list[str]] = {}
        for (name, seed), of_source in zip(every, contents, strict=True):
            source = prior_name(*name)
            which = f"{source}, seed {seed}" if sources.count(name) > 1 else source
            image = picture(of_source[number], f"{which}: {caption}")
            figures.setdefault(source, []).append(image)
        parts.append(f'<article><h3 dir="auto">{escape(caption)}</h3><div class="pictures">')
        parts += [
            f'<figure><div class="seeds">{"".join(images)}</div>'
            f"<figcaption>{escape(source)}</figcaption></figure>"
            for source, images in figures.items()
        ]
        parts.append("</div></article>\n")
    return "".join(parts)


def _within_bytes(images: Sequence[Sequence[Image.Image]]) -> list[list[bytes]]:
    """The pictures as WebP, all as large as is within `PICTURE_BYTES` together."""
    side = LARGEST
    while True:
        contents = [[webp(image, side) for image in of_source] for of_source in images]
        size = sum(len(content) for of_source in contents for content in of_source)
        if size <= PICTURE_BYTES or side <= SMALLEST:
            return contents
        side = max(SMALLEST, int(SMALLER * side))


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by their path; of lists the values in one text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{above} / {name}" if above else str(name)
        if isinstance(value, Mapping):
            found |= _flat(value, path)
        else:
            found[path] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return found
