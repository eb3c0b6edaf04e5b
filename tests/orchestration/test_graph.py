"""The graph as people know it: keys, dependencies, partitions, groups, checks."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from corgi_core.data.array_jobs import ArrayJob
from corgi_core.data.pixels import Pixels
from corgi_core.data.revisions import (
    LINEAR_PRIORS_REVISION,
    PREDICTION_SCORES_REVISION,
    TRAINING_NEIGHBOURS_REVISION,
)
from corgi_core.encoders.embed import ImageEmbedding, TextEmbedding
from corgi_core.errors import CorgiError
from corgi_core.evaluation.perceptual import PerceptualHashes
from corgi_core.evaluation.picture_features import PictureFeatures
from corgi_core.evaluation.picture_neighbours import PictureNeighbours
from corgi_core.evaluation.picture_statistics import OfFeatures
from corgi_core.evaluation.prior_scores import PredictionScores
from corgi_core.evaluation.sampling import SampledEmbeddings
from corgi_core.evaluation.split_neighbours import SplitNeighbours
from corgi_core.evaluation.training_neighbours import TrainingNeighbours
from orchestration.automation.refresh import Refresh, Step
from orchestration.definitions import build_definitions
from orchestration.resources.workspace import Workspace
from orchestration.settings import Settings

SETTINGS = Settings.from_environment({})

VARIANTS = [
    "baseline", "shifted-k1", "shifted-k16", "shifted-k128", "shifted-k1024",
    "shifted-k1024-learned", "shifted-text",
]  # fmt: skip
DECODERS = ["pca", "cascade", "gan", "lafite"]
SUBSETS = ["0%", "1.7%", "10%", "100%"]
PRIORS = [f"{subset}|{variant}" for subset in SUBSETS for variant in VARIANTS]

# asset: (group, what it is made from, partitions)
GRAPH: dict[str, tuple[str, set[str], list[str]]] = {
    "source_data": ("data", set(), []),  # which Dagster observes, and does not make
    "raw_images": ("data", {"source_data"}, []),
    "images": ("data", {"raw_images"}, []),
    "image_splits": ("data", {"images"}, []),
    "pixels": ("data", {"images"}, []),
    "clip_encoder": ("embeddings", {"images", "pixels"}, []),
    "image_embeddings": ("embeddings", {"images", "pixels", "clip_encoder"}, []),
    "text_embeddings": ("embeddings", {"images", "clip_encoder"}, []),
    "split_overlap": ("embeddings", {"images", "image_embeddings"}, []),
    "caption_subset": ("captions", {"images"}, SUBSETS),
    "gaussian_bank": ("gaussians", {"images", "image_embeddings", "text_embeddings"}, VARIANTS),
    "prior": (
        "models",
        {
            "images", "image_embeddings", "text_embeddings", "caption_subset", "gaussian_bank",
            "split_overlap",
        },
        PRIORS,
    ),
    "decoder": (
        "models", {"image_splits", "pixels", "image_embeddings", "clip_encoder"}, DECODERS
    ),
    "captioned_decoder": (
        "captioned",
        {"images", "pixels", "image_embeddings", "text_embeddings", "caption_subset"},
        SUBSETS,
    ),
    "evaluation": (
        "evaluation",
        {
            "images", "pixels", "clip_encoder", "image_embeddings", "text_embeddings", "prior",
            "decoder", "split_overlap",
        },
        [],
    ),
    "prior_study": (
        "study",
        {"images", "image_embeddings", "text_embeddings", "split_overlap"},
        ["0", "1", "2"],
    ),
    "study_figures": ("study", {"prior_study"}, []),
    "language_free_decoder": (
        "comparison",
        {"image_splits", "pixels", "image_embeddings", "clip_encoder", "decoder"},
        DECODERS,
    ),
    "decoder_comparison": (
        "comparison",
        {
            "images", "pixels", "clip_encoder", "image_embeddings", "text_embeddings", "prior",
            "decoder", "language_free_decoder", "split_overlap",
        },
        [],
    ),
    "human_ratings": ("ratings", set(), []),
    "caption_proposals": ("proposals", {"images", "image_embeddings", "text_embeddings"}, []),
    "registered_models": (
        "registry",
        {
            "evaluation", "prior", "decoder", "captioned_decoder", "language_free_decoder",
            "clip_encoder",
        },
        [],
    ),
}  # fmt: skip

BLOCKING_CHECKS = {
    ("images", "manifest_meets_expectations"),
    ("images", "images_suffice_for_the_preset"),
    ("image_embeddings", "image_embeddings_meet_expectations"),
    ("text_embeddings", "text_embeddings_meet_expectations"),
}

TELLING_CHECKS = {
    ("split_overlap", "no_near_twins_are_in_two_splits"),
    ("registered_models", "promotion"),
    ("image_embeddings", "new_images_are_like_the_champions"),
    ("text_embeddings", "new_captions_are_like_the_champions"),
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    definitions = build_definitions(SETTINGS)
    dg.Definitions.validate_loadable(definitions)
    return definitions


def test_the_graph_is_the_lineage(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {}
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        partitions = node.partitions_def.get_partition_keys() if node.partitions_def else []
        parents = {parent.to_user_string() for parent in node.parent_keys}
        found[key.to_user_string()] = (node.group_name, parents, list(partitions))
    assert found == GRAPH


def test_a_check_of_data_blocks_and_a_decision_does_not(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    checks = {
        (key.asset_key.to_user_string(), key.name): graph.get_check_spec(key).blocking
        for key in graph.asset_check_keys
    }
    assert checks == dict.fromkeys(BLOCKING_CHECKS, True) | dict.fromkeys(TELLING_CHECKS, False)


@pytest.mark.parametrize(
    "environment", [{}, {"CORGI_ZERO_SHOT": "others"}, {"CORGI_PRESET": "embeddings"}]
)
def test_every_asset_and_check_says_what_it_is(environment: dict[str, str]) -> None:
    graph = build_definitions(Settings.from_environment(environment)).resolve_asset_graph()
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        assert node.is_external or all((node.owners, node.kinds, node.code_version)), key
        assert node.group_name != "default", key
        assert len(node.description or "") > 30, key
    for check in graph.asset_check_keys:
        assert len(graph.get_check_spec(check).description or "") > 30, check


def test_an_array_jobs_revision_is_its_assets(definitions: dg.Definitions) -> None:
    """So that raising it runs the step, and the step computes every shard again."""
    graph = definitions.resolve_asset_graph()
    scores: list[type[ArrayJob]] = [
        SampledEmbeddings, PredictionScores, PictureFeatures, OfFeatures, PictureNeighbours,
    ]  # fmt: skip
    jobs: dict[str, list[type[ArrayJob]]] = {
        "pixels": [Pixels],
        "image_embeddings": [ImageEmbedding],
        "text_embeddings": [TextEmbedding],
        "split_overlap": [SplitNeighbours],
        "evaluation": [*scores, PerceptualHashes, TrainingNeighbours],
        "decoder_comparison": [*scores, PerceptualHashes, TrainingNeighbours],
    }
    for name, classes in jobs.items():
        code_version = graph.get(dg.AssetKey(name)).code_version or ""
        revisions = code_version.partition("-")[0].split(".")
        assert revisions[-len(classes) :] == [str(job.revision) for job in classes], name


def test_an_evaluation_of_precomputed_embeddings_knows_the_revisions_of_its_rows() -> None:
    """The linear priors' too: a mandatory row, by which champions are judged."""
    settings = Settings.from_environment({"CORGI_PRESET": "embeddings"})
    graph = build_definitions(settings).resolve_asset_graph()
    code_version = graph.get(dg.AssetKey("evaluation")).code_version or ""
    _, *revisions = code_version.partition("-")[0].split(".")
    expected = (
        LINEAR_PRIORS_REVISION, PREDICTION_SCORES_REVISION, TRAINING_NEIGHBOURS_REVISION,
    )  # fmt: skip
    assert revisions == [str(each) for each in expected]


def test_what_needs_the_device_takes_turns_on_it(definitions: dg.Definitions) -> None:
    pools = {
        asset.key.to_user_string(): asset.op.pool
        for asset in definitions.assets or []
        if isinstance(asset, dg.AssetsDefinition) and asset.op.pool
    }
    assert pools.pop("registered_models") == "promotion"
    assert pools == dict.fromkeys(
        (
            "clip_encoder", "gaussian_bank", "prior", "decoder", "captioned_decoder",
            "language_free_decoder", "prior_study", "image_embeddings", "text_embeddings",
            "evaluation", "decoder_comparison", "caption_proposals",
        ),
        "device",
    )  # fmt: skip


def partitions_by_asset(steps: list[Step]) -> dict[str, set[str | None]]:
    made: dict[str, set[str | None]] = {}
    for step in steps:
        made.setdefault(step.asset.to_user_string(), set()).add(step.partition)
    return made


def test_a_refresh_makes_the_partitions_of_the_presets_variants(
    definitions: dg.Definitions,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        made = partitions_by_asset(
            Refresh(definitions.get_repository_def(), instance, SETTINGS).all_steps()
        )
    own = SETTINGS.preset.variants
    by_request = {"study", "comparison", "captioned", "ratings", "proposals"}
    assert own == ("baseline", "shifted-k16", "shifted-text")
    made_here = GRAPH.keys() - {"source_data"}
    assert made.keys() == {key for key in made_here if GRAPH[key][0] not in by_request}
    assert made["gaussian_bank"] == set(own)
    assert made["prior"] == {f"{subset}|{variant}" for subset in SUBSETS[1:] for variant in own}
    assert made["caption_subset"] == set(SUBSETS[1:])
    assert made["decoder"] == {"pca"}
    assert made["evaluation"] == {None}


def test_a_comparison_makes_all_decoders_of_the_preset_with_and_without_captions(
    definitions: dg.Definitions,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        refresh = Refresh(definitions.get_repository_def(), instance, SETTINGS)
        steps = refresh.comparison_steps()
    made, own = partitions_by_asset(steps), SETTINGS.preset.comparison.variants
    assert own == tuple(VARIANTS[:2])
    assert made.keys() == GRAPH.keys() - {
        "prior_study", "study_figures", "captioned_decoder", "human_ratings", "source_data",
        "caption_proposals",
    }  # fmt: skip
    assert made["prior"] == {f"{subset}|{variant}" for subset in SUBSETS for variant in own}
    assert made["decoder"] == made["language_free_decoder"] == set(DECODERS)
    assert steps[-1].title in ("decoder_comparison", "registered_models")


def test_what_is_not_configured_has_no_partitions(tmp_path: Path) -> None:
    """So that "Materialize all" starts nothing that can only fail."""

    def partitions(environment: dict[str, str]) -> dict[str, list[str]]:
        graph = build_definitions(Settings.from_environment(environment)).resolve_asset_graph()
        names = ("caption_subset", "decoder", "captioned_decoder", "language_free_decoder")
        found = {name: graph.get(dg.AssetKey(name)).partitions_def for name in names}
        return {name: list(each.get_partition_keys()) for name, each in found.items() if each}

    assert partitions({"CORGI_STABLE_DIFFUSION": str(tmp_path)}) == {
        "caption_subset": SUBSETS, "captioned_decoder": SUBSETS,
        "decoder": [*DECODERS, "stable_diffusion"],
        "language_free_decoder": [*DECODERS, "stable_diffusion"],
    }  # fmt: skip
    config = tmp_path / "own.yaml"
    config.write_text("name: mine\ndecoders: {cascade: null}\n")
    assert partitions({"CORGI_DATASET": "mine", "CORGI_CONFIG": str(config)}) == {
        "caption_subset": SUBSETS[1:], "captioned_decoder": [],
        "decoder": ["pca", "gan", "lafite"], "language_free_decoder": [],
    }  # fmt: skip


def test_automations_are_off(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    for name in ("weekly_semi_supervised_retrain", "weekly_retention"):
        schedule = repository.get_schedule_def(name)
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    sensor = repository.get_sensor_def("new_data_version")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def code_versions(**environment: str) -> dict[str, str | None]:
    graph = build_definitions(Settings.from_environment(environment)).resolve_asset_graph()
    keys = graph.toposorted_asset_keys
    return {key.to_user_string(): graph.get(key).code_version for key in keys}


def test_other_inception_weights_make_the_evaluation_stale_and_nothing_else(
    tmp_path: Path,
) -> None:
    weights = tmp_path / "inception.pt"
    weights.touch()
    before, after = code_versions(), code_versions(CORGI_INCEPTION_WEIGHTS=str(weights))
    assert before.keys() == after.keys() == GRAPH.keys()
    assert {key for key in GRAPH if before[key] != after[key]} == {"evaluation"}


def test_naming_a_pipeline_adds_a_decoder_and_makes_nothing_stale(
    definitions: dg.Definitions, tmp_path: Path
) -> None:
    pipeline = {"CORGI_PRESET": "emoji", "CORGI_STABLE_DIFFUSION": str(tmp_path)}
    graph = definitions.resolve_asset_graph()
    assert code_versions(**pipeline) == {
        key: graph.get(dg.AssetKey(key)).code_version for key in GRAPH
    }
    preset = Workspace.of(Settings.from_environment(pipeline)).preset
    added = preset.decoder_of("stable_diffusion")
    assert [decoder.kind for decoder in preset.decoders] == [*DECODERS, added.kind]
    assert (added.pretrained, added.image_size) == (str(tmp_path), preset.decoder.image_size)
    assert preset.decoder == SETTINGS.preset.decoder
    with pytest.raises(CorgiError, match="no pictures to learn from"):
        Settings.from_environment(pipeline | {"CORGI_PRESET": "embeddings"})
