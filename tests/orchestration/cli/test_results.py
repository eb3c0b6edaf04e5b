"""Results are readable in a narrow terminal, and what is printed can be pasted."""

from __future__ import annotations

import re
import shlex
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from corgi_core.data.dataset import write_dataset
from corgi_core.errors import CorgiError
from orchestration.cli.options import options_of
from orchestration.cli.results import (
    example_caption,
    print_pictures,
    print_priors,
    print_published,
    print_table,
    show_comparison,
    show_results,
)
from orchestration.settings import Settings
from tests.helpers.made import sample
from tests.helpers.protocols import a_protocol

SOURCES = ("baseline", "real embedding", "shifted-k1024-learned", "shifted-k16")
METRICS = {
    "clip_similarity_image": 0.25, "clip_similarity_text": 0.5, "frechet_clip": 12.125,
    "copies": 0.75, "vendi": 8.0,
}  # fmt: skip


def printed(width: int, metrics: dict) -> list[str]:
    file = StringIO()
    print_pictures(metrics, Console(file=file, width=width))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_name_and_no_number_is_cut_or_broken(width: int) -> None:
    scores = {"10%": METRICS | {"count": 24, "seconds": 1.0}}
    lines = printed(width, {"pictures": dict.fromkeys(SOURCES, scores)})
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for source in SOURCES:
        assert any(line.strip().startswith(source) for line in lines)
    for value in ("0.250", "0.500", "12.125", "0.750"):
        assert text.count(value) == len(SOURCES)
    assert {"image", "caption", "Fréchet", "copies"} <= set(text.split())
    assert "8.000" not in text  # what is not of the main scores stands on the page


def test_no_distance_of_few_pictures_stands_without_its_bias() -> None:
    scores = METRICS | {"fid": 40.0, "fid_bias": 31.5, "frechet_clip_bias": 4.625, "count": 24}
    head, row = (
        next(
            line
            for line in printed(200, {"pictures": {"baseline": {"10%": scores}}})
            if word in line
        )
        for word in ("FID", "40.000")
    )
    assert re.search(r"FID +FID's bias +Fréchet \(CLIP\) +its bias", head)
    assert re.search(r"40\.000 +31\.500 +12\.125 +4\.625", row)


def test_a_table_that_fits_is_in_one_part() -> None:
    scores = {"10%": METRICS | {"count": 24, "seconds": 1.0}}
    lines = printed(80, {"pictures": {"baseline": scores, "real embedding": scores}})
    assert sum(line.strip().startswith("baseline") for line in lines) == 1


def test_pictures_beside_other_captions_are_one_row_with_the_highest_of_all() -> None:
    def scores(shuffled: float) -> dict:
        control = {"clip_similarity_text": shuffled}
        return {"100%": METRICS | {"count": 24, "shuffled": control}}

    pictures = {
        "baseline": scores(0.125),
        "shifted-k1": scores(0.375),
        "real embedding": {"none": METRICS | {"count": 24}},
    }
    lines = printed(120, {"pictures": pictures})
    (row,) = [line for line in lines if "shuffled captions" in line]
    assert "0.375" in row
    assert "0.125" not in row
    names = [line.split("  ")[0] for line in lines if "0.500" in line]
    assert names == ["real embedding", "baseline", "shifted-k1"]


def test_published_values_stand_under_their_own_protocol_alone() -> None:
    metrics = {"pictures": {"baseline": {"10%": {"fid": 11.0, "count": 30_000}}}}
    stored = a_protocol(
        dataset="coco", is_zero_shot=True, decoded_images=30_000, inception="1" * 16,
        image_size=256, framing="crop", captions_file="captions_val2014.json",
    ).stored  # fmt: skip
    others = (
        {"decoded_images": 256}, {"image_size": 64}, {"framing": "letterbox"},
        {"captions_file": "captions_val2017.json"},
    )  # fmt: skip
    for protocol, listed in ((stored, True), *((stored | other, False) for other in others)):
        file = StringIO()
        print_published(metrics | {"protocol": protocol}, Console(file=file, width=120))
        text = file.getvalue()
        assert all((word in text) == listed for word in ("Corgi-Semi", "10.60", "not measured"))
    without = {"pictures": {"baseline": {"10%": {"kid": 0.1}}}, "protocol": stored}
    file = StringIO()
    print_published(without, Console(file=file, width=120))
    assert not file.getvalue()


def test_signs_of_markup_are_printed_as_they_are() -> None:
    file = StringIO()
    print_table(Console(file=file, width=80), "[old]", ["[bold]a", "b"], [["[red]x", "[/]"]])
    for text in ("[old]", "[bold]a", "[red]x", "[/]"):
        assert text in file.getvalue()


@pytest.fixture
def own_data(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of people's own data with captions, and an evaluation of them."""
    import json

    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment(
        {"CORGI_HOME": "home [old] folder", "CORGI_DATASET": "photos"}
    )
    captions = [["a dog that's [big]"], None, ["two cats on a very long sofa"]]
    made = [sample(key, captions=texts) for key, texts in zip("abc", captions, strict=True)]
    write_dataset(tmp_path / "data" / "photos" / "images", made, shard_size=2)
    settings.reports.mkdir(parents=True)
    score = {"4": {"cosine": 0.5, "shuffled": {"cosine": 0.1}}}
    metrics = {
        "protocol": a_protocol().stored, "baselines": {"CLIP text embedding": {"cosine": 0.25}},
        "priors": {"baseline": {"10%": score}},
        "pictures": {"baseline": {"10%": METRICS | {"count": 24, "seconds": 1.0}}},
    }  # fmt: skip
    (settings.reports / "metrics.json").write_text(json.dumps(metrics))
    return settings


def test_the_page_is_named_where_it_is(own_data: Settings) -> None:
    page = own_data.reports / "report.html"
    for exists in (False, True):
        file = StringIO()
        show_results(own_data, Console(file=file, width=40))
        assert any(line.endswith(f": {page}") for line in file.getvalue().splitlines()) == exists
        page.touch()


def test_what_to_do_next_quotes_a_caption_of_the_data_and_can_be_pasted(own_data: Settings) -> None:
    file = StringIO()
    show_results(own_data, Console(file=file, width=40))
    lines = file.getvalue().splitlines()
    assert f"Pictures and numbers: {own_data.reports}" in lines  # with "[old]", on one line
    (command,) = [line for line in lines if "corgi generate" in line]
    words = shlex.split(command)
    assert words == [
        "corgi", "generate", *shlex.split(options_of(own_data)), "a dog that's [big]", "-n", "4",
    ]  # fmt: skip


def test_baselines_come_first_and_every_score_has_its_interval() -> None:
    def scores(cosine: float) -> dict[str, float]:
        return {"cosine": cosine, "cosine_ci_low": cosine - 0.02, "cosine_ci_high": cosine + 0.04}

    metrics = {
        "protocol": a_protocol().stored,
        "baselines": {"linear prior": scores(0.5), "CLIP text embedding": scores(0.25)},
        "priors": {"shifted-k1": {"100%": {"4": scores(0.75) | {"shuffled": scores(0.125)}}}},
    }
    file = StringIO()
    print_priors(metrics, Console(file=file, width=100))
    lines = [line.strip() for line in file.getvalue().splitlines()]
    first = [line.split("  ")[0] for line in lines if "± 0.030" in line]
    assert first == [
        "CLIP text embedding", "linear prior", "prior shifted-k1", "shuffled captions, the highest",
    ]  # fmt: skip
    assert any("0.750 ± 0.030" in line for line in lines)
    assert a_protocol().line in lines
    with pytest.raises(CorgiError, match="no baselines"):
        print_priors({"protocol": {"prior_steps": 4}, "priors": {}}, Console(file=file))


def test_the_emoji_preset_shows_a_caption_of_its_own() -> None:
    assert example_caption(Settings.from_environment({})) == "a red apple, noto style"


def test_a_comparison_is_printed_with_its_protocol_below(tmp_path: Path) -> None:
    settings = Settings.load({"CORGI_HOME": str(tmp_path)}, dataset="photos")
    tables = settings.reports / "comparison" / "tables"
    tables.mkdir(parents=True)
    text = "| decoder | embedding | captions | recall |\n| --- | ---: | ---: | ---: |\n"
    text += "| real images |  |  | 1.0 |\n| pca | real | none | 0.5 |\n\nProtocol abc\n"
    (tables / "supervision.md").write_text(text, encoding="utf-8")
    file = StringIO()
    show_comparison(settings, Console(file=file, width=100))
    lines = [line.split() for line in file.getvalue().splitlines() if line.strip()]
    assert lines[-4:-1] == [
        ["real", "images", "1.0"], ["pca", "real", "none", "0.5"], ["Protocol", "abc"]
    ]  # fmt: skip


def test_a_part_leaves_out_the_rows_that_have_nothing_in_it() -> None:
    rows = [["control", "0.1234567890", "–"], ["prior", "0.2345678901", "0.3456789012"]]
    file = StringIO()
    print_table(Console(file=file, width=24), "T", ["row", "first", "second"], rows)
    assert [line.split() for line in file.getvalue().splitlines() if "0." in line] == [
        ["control", "0.1234567890"], ["prior", "0.2345678901"], ["prior", "0.3456789012"]
    ]  # fmt: skip
    assert file.getvalue().count("control") == 1
