"""What the asset `evaluation` says of itself."""

from types import SimpleNamespace

from assets.evaluation import title_of


def test_a_title_keeps_its_capitals() -> None:
    workspace = SimpleNamespace(preset=SimpleNamespace(name="coco"), dataset="CUB")
    assert title_of("zero-shot-CUB", workspace) == "Zero-shot-CUB of coco, CUB"
