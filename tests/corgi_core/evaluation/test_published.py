"""Published values: each with a source, and of a protocol and a score that there are."""

from __future__ import annotations

from corgi_core.evaluation.protocol import NAMED
from corgi_core.evaluation.published import published_under, published_values


def test_each_has_a_source_and_a_protocol_that_there_is() -> None:
    for each in published_values():
        assert each.protocol in NAMED
        assert each.source.startswith("arXiv 2")
        assert each.metric == "fid"
        assert 0 < each.value < 100
    assert len({(each.model, each.protocol) for each in published_values()}) == len(
        published_values()
    )


def test_the_paper_stands_where_it_says() -> None:
    values = {each.model: each.value for each in published_under("coco-fid-30k", ["fid"])}
    assert (values["Corgi-Semi"], values["Corgi"]) == (10.60, 10.88)
    assert list(values.values()) == sorted(values.values())
    assert published_under("coco-fid-30k", ["frechet_clip"]) == []
    assert published_under("emoji", ["fid"]) == []
    (celeba,) = published_under("celeba-hq", ["fid"])
    assert (celeba.model, celeba.value) == ("Corgi", 19.74)
    doubts = {each.model: each.source for each in published_values()}
    assert "17.9 to 27.5" in doubts["DALL-E"]  # papers differ, and the table says so
    assert "is not said" in celeba.source
