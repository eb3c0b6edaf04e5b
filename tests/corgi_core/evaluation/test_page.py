"""The page of an evaluation: whole, safe to open anywhere, and honest in its sentences."""

from __future__ import annotations

import base64
import copy
import re
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corgi_core.errors import CorgiError
from corgi_core.evaluation import page as module
from corgi_core.evaluation.charts import Point, by_timestep
from corgi_core.evaluation.findings import findings
from corgi_core.evaluation.page import page
from corgi_core.evaluation.paper_figures import Beside
from corgi_core.evaluation.protocol import NAMED
from corgi_core.evaluation.report import (
    BASELINES,
    PICTURE_BASELINES,
    REAL_AGAINST_REAL,
    TEXT_EMBEDDING,
    Evaluation,
    cosine_curves,
)

HOSTILE = '<script>alert("x")</script><img src="https://example.org/x.png"> & \'quoted\''
PROVENANCE = {"MLflow run": "http://127.0.0.1:5000/#/runs/1?a=b&c=d", "commit": "0123abcd"}
LOADING = {"src", "srcset", "data", "poster", "action", "background"}
random = np.random.default_rng(0)


def score(value: float) -> dict[str, Any]:
    scores: dict[str, Any] = {"count": int(random.integers(1000, 9999))}
    for name in ("cosine", "recall_at_1", "recall_at_5"):
        scores |= {name: value, f"{name}_ci_low": value - 0.0123, f"{name}_ci_high": value + 0.0234}
        value += 0.1
    return scores


def with_strata(value: float) -> dict[str, Any]:
    return {**score(value), "near": score(value + 0.05), "far": score(value - 0.05)}


def prior(value: float) -> dict[str, Any]:
    final = {**with_strata(value), "shuffled": with_strata(value / 2), "seconds": 1.5}
    return {"1": score(value - 0.03), "16": final}


@pytest.fixture
def metrics() -> dict[str, Any]:
    pictures = {
        "frechet_clip": 0.2,
        "frechet_clip_bias": 0.0625,
        "precision": 0.75,
        "vendi": 9.5,
        "count": 24,
    }
    return {
        "protocol": {
            "dataset": "noto",
            "data_version": "0123456789",
            "held_out_captions": 24,
            "prior_steps": 16,
            "prior_sampler": "ddpm",
            "prior_guidance": 1.5,
            "seed": 7,
            "encoders": ["a", "b"],
            "clip": "abcdef0123",
            "zero_shot": {"dataset": "birds"},
        },
        "baselines": {n: with_strata(0.31 + 0.011 * i) for i, n in enumerate(BASELINES)},
        "priors": {
            "baseline": {"10%": prior(0.51), "100%": prior(0.53)},
            "shifted-k1": {"10%": prior(0.55), "100%": prior(0.36)},
        },
        "validation": {
            "captions": 5,
            "priors": {
                "baseline": {"10%": score(0.1), "100%": score(0.2)},
                "shifted-k1": {"10%": score(0.3), "100%": score(0.4)},
            },
        },
        "pictures": {
            **{
                variant: {
                    subset: {**pictures, "shuffled": {"clip_score": 20.125}}
                    for subset in ("10%", "100%")
                }
                for variant in ("baseline", "shifted-k1")
            },
            "real embedding": {"none": {**pictures, "frechet_clip": 0.1, "precision": 0.5}},
            **{name: {"none": pictures} for name in PICTURE_BASELINES},
        },
    }


@pytest.fixture
def samples() -> Any:
    images = [Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(2)]
    captions = ["a red apple", HOSTILE]
    names = [("real image", "none"), ("shifted-k1", "100%")]
    return {name: list(zip(captions, images, strict=True)) for name in names}


class Parsed(HTMLParser):
    """A page's elements, its text, and its tables' rows."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows:
            self.rows[-1] += f"{data}|"

    def having(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


def numbers(values: Any) -> list[float]:
    if isinstance(values, dict):
        return [number for value in values.values() for number in numbers(value)]
    return [values] if isinstance(values, int | float) else []


def test_every_number_is_there_and_the_baselines_are_first(metrics, samples) -> None:
    parsed = Parsed(page(Evaluation(metrics, samples=samples), "Emoji", PROVENANCE))
    sorted_by = set(parsed.having("data-value"))
    assert {str(number) for number in numbers(metrics)} <= sorted_by
    names = [row.partition("|")[0] for row in parsed.rows]
    first = names.index(BASELINES[0])
    assert tuple(names[first : first + len(BASELINES)]) == BASELINES
    assert names[first + len(BASELINES)] == "baseline, 10%, shuffled captions"
    row = next(row for row in parsed.rows if row.startswith("shifted-k1, 10%|prior|"))
    assert "0.5500|0.5377 – 0.5734|" in row
    (row,) = [row for row in parsed.rows if row.startswith("real embedding|")]
    assert "0.1000|bias 0.0625|" in row
    assert "birds" in parsed.texts
    assert any(text.startswith("Protocol unnamed (") for text in parsed.texts)


def test_pictures_have_a_table_of_both_strata(metrics) -> None:
    """Of the rows that have strata alone; where a score needs more pictures, it says so."""
    strata = {"near": {"precision": 0.625, "count": 5}, "far": {"precision": 0.375, "count": 19}}
    strata["far"] |= {"vendi": 4.25, "vendi_bias": -0.5}
    metrics["pictures"]["real embedding"]["none"] |= strata
    parsed = Parsed(page(Evaluation(metrics), "Emoji", PROVENANCE))
    of_strata, _ = (row for row in parsed.rows if row.startswith("real embedding|"))
    few, many = "too few (5)|0.6250|too few (5)|5|", "too few (19)|0.3750|4.2500|bias -0.5000|19|"
    assert of_strata.startswith(f"real embedding|{few}{many}")
    (head,) = [row for row in parsed.rows if "near: precision" in row]
    names = ["Fréchet (own CLIP)", "precision", "Vendi (own CLIP)", "count"]
    columns = [f"{part}: {name}" for part in ("near", "far") for name in names]
    assert head.startswith("|".join(["row", *columns]))


def test_nothing_is_loaded_and_only_provenance_is_linked(metrics, samples) -> None:
    parsed = Parsed(page(Evaluation(metrics, samples=samples), "Emoji", PROVENANCE))
    loaded = [value for name in LOADING for value in parsed.having(name)]
    assert len(loaded) == 4
    for value in loaded:
        kind, content = value.split(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(BytesIO(base64.b64decode(content))).size == (40, 40)
    assert parsed.having("href") == [PROVENANCE["MLflow run"]]
    assert not {tag for tag, _ in parsed.elements} & {"link", "iframe", "object", "base"}
    assert not re.search(
        r"url\(|@import", page(Evaluation(metrics, samples=samples), "Emoji", PROVENANCE)
    )


def test_hostile_text_is_text(metrics, samples) -> None:
    metrics["protocol"]["zero_shot"]["dataset"] = HOSTILE
    metrics["priors"]["baseline"][HOSTILE] = metrics["priors"]["baseline"].pop("10%")
    metrics["pictures"]["baseline"][HOSTILE] = metrics["pictures"]["baseline"].pop("10%")
    metrics["validation"]["priors"]["baseline"][HOSTILE] = score(0.9)
    provenance = {"run": f"javascript:{HOSTILE}", HOSTILE: "http://h/\"onclick='x'"}
    parsed = Parsed(page(Evaluation(metrics, samples=samples), HOSTILE, provenance))
    assert [tag for tag, _ in parsed.elements].count("script") == 1  # the page's own
    assert parsed.texts.count(HOSTILE) >= 4
    assert not [attrs for _, attrs in parsed.elements if any(n.startswith("on") for n in attrs)]
    assert not [value for value in parsed.having("href") if value.startswith("javascript")]


def test_a_page_without_a_mandatory_row_is_refused(metrics) -> None:
    for name in BASELINES:
        lacking = copy.deepcopy(metrics)
        del lacking["baselines"][name]
        with pytest.raises(CorgiError, match=f"lacks a row .*: {name}"):
            page(Evaluation(lacking), "", {})
    for name in PICTURE_BASELINES:
        lacking = copy.deepcopy(metrics)
        del lacking["pictures"][name]
        with pytest.raises(CorgiError, match=f"lacks a row .*: {name} .pictures"):
            page(Evaluation(lacking), "", {})


def test_sentences_follow_the_numbers(metrics) -> None:
    def said(start: str) -> str:
        (sentence,) = [each for each in findings(metrics) if each.startswith(start)]
        return sentence

    assert said("The prior").endswith("on the validation images is shifted-k1, 100%.")
    assert said("Its cosine").endswith(  # of .31, .321, …, .376 two exceed .36
        "is 0.3600; above it: linear prior (0.3650, fitted to all captions) and linear prior, "
        "contrastive (0.3760, fitted to all captions)."
    )
    assert "0.1800 is what it takes from the caption" in said("With the images")
    assert said("Pictures: real embedding").endswith("is better in Fréchet (own CLIP).")
    assert "about 0.0625 apart" in said("Fréchet")
    assert "decoder's of shifted-k1, 100%" in said(f"Pictures: {TEXT_EMBEDDING}")
    metrics["pictures"]["real embedding"]["none"] |= {"frechet_clip": 0.3}
    assert said("Pictures: real embedding").endswith("is better in nothing.")
    assert not [each for each in findings(metrics) if f"of {REAL_AGAINST_REAL}" in each]
    assert not [
        each for each in findings(metrics) if each.startswith(f"Pictures: {REAL_AGAINST_REAL}")
    ]
    metrics["pictures"]["real embedding"]["none"] |= {"count": 10**6}
    assert not [each for each in findings(metrics) if each.startswith("Pictures: real embedding")]
    metrics["validation"]["priors"]["shifted-k1"]["10%"] = score(0.5)
    assert said("Its cosine").endswith("is 0.5500; no baseline is above it.")


def test_published_values_are_marked_and_of_the_same_named_protocol_alone(metrics) -> None:
    metrics["pictures"]["real embedding"]["none"]["fid"] = 12.5
    metrics["protocol"] |= NAMED["coco-fid-30k"] | {"inception": "0123456789", "image_size": 64}
    assert "10.88" not in page(Evaluation(metrics), "", {})
    metrics["protocol"]["image_size"] = 256
    parsed = Parsed(page(Evaluation(metrics), "", {}))
    (row,) = [row for row in parsed.rows if "10.88" in row]
    assert row.startswith("Corgi|FID (Inception)|10.88|arXiv 2211.15388")
    assert "Published under the protocol coco-fid-30k: not measured here" in parsed.texts


def test_priors_of_fewer_captions_are_not_judged_by_the_linear_prior(metrics, monkeypatch) -> None:
    """It is fitted to all captions."""
    references: dict[str, list[str]] = {}

    def noted(title: str, series: Any, lines: Any, score: str) -> str:
        references[title] = list(lines)
        return ""

    monkeypatch.setattr(module, "by_steps", noted)
    page(Evaluation(metrics), "", {})
    for title, names in references.items():
        assert names == (["linear prior"] if "100%" in title else [])
    assert len(references) == 4
    metrics["baselines"]["linear prior"]["cosine"] = 0.99
    (said,) = [each for each in findings(metrics) if each.startswith("Its cosine")]
    assert "linear prior (0.9900, fitted to all captions)" in said
    lines: list[float] = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda _, y, **_style: lines.append(y))
    cosine_curves(metrics)
    assert lines.count(0.99) == 1


def test_the_pictures_are_bounded_together(metrics, monkeypatch) -> None:
    monkeypatch.setattr(module, "PICTURE_BYTES", 9000)
    monkeypatch.setattr(module, "CAPTIONS", 6)
    noise = Image.fromarray(random.integers(0, 256, (99, 99, 3), np.uint8))
    samples = {("real image", "none"): [("a", noise)] * 7}
    parsed = Parsed(page(Evaluation(metrics, samples=samples), "", {}))
    sources = parsed.having("src")
    assert len(sources) == 6
    assert 4500 < sum(len(source) * 3 / 4 for source in sources) < 9200


def test_curves_of_one_number_of_steps_and_equal_values_are_plotted(metrics) -> None:
    for subsets in metrics["priors"].values():
        for by_steps in subsets.values():
            del by_steps["1"]
    parsed = Parsed(page(Evaluation(metrics), "", {}))
    assert "2.5" not in parsed.texts
    scores = {"frechet_clip": 0.2, "clip_score": 30.5}
    metrics["guidances"] = {"2.5": {"real embedding": {"none": scores}}}
    parsed = Parsed(page(Evaluation(metrics), "", {}))
    assert "2.5" in parsed.texts
    points = [*parsed.having("cx"), *parsed.having("cy")]
    assert points
    assert np.isfinite(np.array(points, float)).all()


def test_every_seed_stands_beside_the_first_and_what_has_no_seeds_stands_once(
    metrics, samples
) -> None:
    name = ("shifted-k1", "100%")
    seeds = {8: {name: samples[name]}, 9: {name: samples[name]}}
    parsed = Parsed(page(Evaluation(metrics, samples=samples, seeds=seeds), "", {}))
    of_caption = [each for each in parsed.having("alt") if each.endswith(": a red apple")]
    assert of_caption == [
        f"{source}: a red apple"
        for source in (
            "real image", "shifted-k1, 100%, seed 7", "shifted-k1, 100%, seed 8",
            "shifted-k1, 100%, seed 9",
        )
    ]  # fmt: skip
    assert any("the seeds 7, 8, 9;" in text for text in parsed.texts)


def test_a_curve_over_guidance_names_both_axes(metrics) -> None:
    scores = {"frechet_clip": 0.2, "frechet_clip_ci_low": 0.1, "frechet_clip_ci_high": 0.4}
    scores["frechet_clip_bias"] = 0.125
    metrics["guidances"] = {
        f"{g:g}": {"real embedding": {"none": {**scores, "clip_score": 30.5 + g}}} for g in (1, 2)
    }
    parsed = Parsed(page(Evaluation(metrics), "", {}))
    at = parsed.texts.index("CLIP score (own CLIP)")
    assert "Fréchet (own CLIP)" in parsed.texts[at : at + 3]
    assert {"1", "2"} <= set(parsed.texts)
    title = "Fréchet (own CLIP) (bias up to 0.125) by CLIP score (own CLIP)"
    assert title in parsed.texts


def test_the_prediction_at_every_timestep_is_plotted_from_noise_to_the_sample(metrics) -> None:
    along = {str(t): score(value) for t, value in ((999, 0.2), (500, 0.3), (1, 0.4))}
    metrics["priors"]["baseline"]["10%"]["16"]["cosine_by_timestep"] = along
    before = Parsed(page(Evaluation(copy.deepcopy(metrics)), "", {}))
    at = before.texts.index("ẑ₀, trained with 10% of the captions")
    assert "timestep, from noise to the sample" in before.texts[at : at + 30]
    assert before.texts.count("ẑ₀, trained with 100% of the captions") == 0
    chart = by_timestep("", {"a": {t: Point(v["cosine"], 0, 1) for t, v in
                                   ((int(t), v) for t, v in along.items())}}, "")  # fmt: skip
    xs = [float(x) for x in Parsed(chart).having("cx")]
    ys = [float(y) for y in Parsed(chart).having("cy")]
    assert xs == sorted(xs)  # 999 is left
    assert ys == sorted(ys, reverse=True)  # 0.2 is low


def test_the_papers_figures_are_there_or_the_command_that_measures_them(metrics) -> None:
    def text(beside: Beside) -> str:
        return "".join(Parsed(page(Evaluation(metrics), "", {}, beside)).texts)

    nothing = text(Beside())
    for command in ("corgi rate FOLDER", "corgi study", "evaluation.guidances=[1,2,4]"):
        assert command in nothing
    rows = [
        {"aspect": aspect, "metric": metric, "model": "ours", "other": "sd", "value": value,
         "low": value - 0.0625, "high": value + 0.0625, "votes": 40}
        for aspect in ("alignment", "fidelity")
        for metric, value in (("win rate", 0.5), ("same rate", 0.125), ("loss rate", 0.375))
    ]  # fmt: skip
    rows += [{**rows[0], "metric": "strength", "other": "", "low": None, "high": None}]
    plots = dict.fromkeys(("steps", "timesteps", "gaussians", "kappa"), Image.new("RGB", (30, 20)))
    beside = Beside({"parti": rows}, plots, {"votes": "0123456789"})
    parsed = Parsed(page(Evaluation(metrics), "", {}, beside))
    assert "parti|alignment|ours|sd|50.0%|43.8% – 56.2%|12.5%|" in "".join(parsed.rows)
    assert set(parsed.having("alt")) == set(plots)
    assert "0123456789" in parsed.texts
    text_of_page = "".join(parsed.texts)
    assert "corgi study" not in text_of_page
    assert "Nobody has voted" not in text_of_page
