"""What options, environment and files decide; names of datasets; what children are given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from corgi_core.config import PRESETS
from corgi_core.config.names import NAME
from corgi_core.errors import CorgiError
from orchestration.definitions import build_definitions
from orchestration.settings import Settings


def written(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_set_wins_over_the_environment_and_that_over_the_file_and_that_over_the_preset(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, "extends: emoji-small\nprior: {layers: 5, heads: 8, width: 96}\n")
    environment = {"CORGI_PRIOR__LAYERS": "6", "CORGI_PRIOR__HEADS": "12"}
    settings = Settings.load(environment, config=file, overrides=["prior.layers=7"])
    prior = settings.preset.prior
    assert (prior.layers, prior.heads, prior.width) == (7, 12, 96)
    assert prior.cond_dropout == 0.1
    origins = ["--set", "CORGI_PRIOR__HEADS", "my.yaml", "preset emoji", "preset emoji-small"]
    paths = ["prior.layers", "prior.heads", "prior.width", "prior.guidance", "data.limit"]
    assert [settings.loaded.origin_of(path) for path in paths] == origins


def test_options_win_over_variables() -> None:
    environment = {"CORGI_PRESET": "embeddings", "CORGI_DATASET": "theirs"}
    settings = Settings.load(environment, preset="emoji-small", dataset="mine", mlflow_port=5001)
    assert (settings.preset.name, settings.dataset) == ("emoji-small", "mine")
    assert settings.mlflow_port == 5001


def test_the_old_variables_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    settings = Settings.from_environment(
        {
            "CORGI_WORKERS": "0", "CORGI_INCEPTION_WEIGHTS": str(tmp_path / "weights.pt"),
            "CORGI_STABLE_DIFFUSION": str(tmp_path), "CORGI_CLIP": f"{tmp_path},RN50/openai",
            "CORGI_LANGUAGE_FREE": "noto", "CORGI_HOME": str(tmp_path), "CORGI_STORAGE": "s3://b",
            "CORGI_RAY_ADDRESS": "auto", "MLFLOW_TRACKING_URI": "http://m:5000",
            "CORGI_DAGSTER_PORT": "3001",
        }
    )  # fmt: skip
    preset = settings.preset
    assert preset.workers == 0
    assert preset.evaluation.inception_weights == str(tmp_path / "weights.pt")
    assert preset.decoder_of("stable_diffusion").pretrained == str(tmp_path)
    assert preset.encoders.clip == (str(tmp_path), "RN50/openai")
    assert preset.language_free.source == "noto"
    assert (settings.storage_url, settings.ray_address) == ("s3://b", "auto")
    assert (settings.tracking_uri, settings.dagster_port) == ("http://m:5000", 3001)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://corgi:secret@db/mlflow", "postgresql://corgi@db/mlflow?password=secret",
        "http://me:secret@mlflow:5000", "https://secret@mlflow",
    ],
)  # fmt: skip
def test_mlflows_address_with_a_password_is_refused(uri: str) -> None:
    with pytest.raises(CorgiError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        Settings.from_environment({"MLFLOW_TRACKING_URI": uri})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["postgresql+psycopg2://corgi@db/mlflow", "https://mlflow/a@b"])
def test_mlflows_address_without_a_password_is_taken(uri: str) -> None:
    assert Settings.from_environment({"MLFLOW_TRACKING_URI": uri}).tracking_uri == uri


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"CORGI_WORKERS": "many"}, "CORGI_WORKERS is 'many'"),
        ({"CORGI_WORKERS": "-1"}, "CORGI_WORKERS: workers is -1"),
        ({"CORGI_DAGSTER_PORT": "70000"}, "CORGI_DAGSTER_PORT is '70000'"),
        ({"CORGI_INCEPTION_WEIGHTS": "/nowhere.pt"}, "CORGI_INCEPTION_WEIGHTS: .*/nowhere.pt"),
        (
            {"CORGI_EVALUATION__DINOV2_WEIGHTS": "/nowhere"},
            "CORGI_EVALUATION__DINOV2_WEIGHTS: .*/nowhere, and there is no such folder",
        ),
        (
            {"CORGI_EVALUATION__OTHER_PRIORS": "[/nowhere]"},
            "CORGI_EVALUATION__OTHER_PRIORS: .*/nowhere, and there is no such folder",
        ),
        ({"CORGI_PRIOR__LAYER": "3"}, "CORGI_PRIOR__LAYER: prior.layer is unknown"),
        ({"CORGI_PRIOR__LAYERS": "x"}, "CORGI_PRIOR__LAYERS: prior.layers is 'x'"),
        ({"CORGI_CONFIG": "/nowhere.yaml"}, "/nowhere.yaml cannot be read"),
        ({"CORGI_PRESET": "nope"}, "there is no preset 'nope'"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(CorgiError, match=problem):
        Settings.from_environment(environment)


def test_an_option_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "extends: emoji-small\n")
    with pytest.raises(CorgiError, match=r"extends the preset emoji-small, and --preset is emoji"):
        Settings.load({}, preset="emoji", config=file)


def test_a_child_has_the_settings_of_its_parent(tmp_path: Path) -> None:
    file = written(
        tmp_path, "name: mine\nextends: emoji\nprior: {layers: 3}\ndecoders: {gan: null}"
    )
    settings = Settings.load(
        {"CORGI_HOME": str(tmp_path / "home"), "CORGI_STUDY__SEEDS": "[4]", "CORGI_DATASET": "d"},
        config=file, overrides=["variants=[shifted-k64]"], dagster_port=3005,
    )  # fmt: skip
    child = settings.child_environment({"CORGI_SEED__X": "1", "PATH": "/bin"})
    assert "CORGI_SEED__X" not in child
    assert child["PATH"] == "/bin"
    assert Settings.from_environment(child) == settings


def test_definitions_of_two_settings_stand_beside_each_other() -> None:
    """In one process: other variants, subsets and steps, other partitions and code versions."""
    overrides = ["variants=[shifted-k64]", "caption_subsets=[5%]", "prior.training.steps=7"]
    graphs = [
        build_definitions(Settings.load({}, overrides=given)).resolve_asset_graph()
        for given in ([], overrides)
    ]
    before, after = (
        {key.to_user_string(): graph.get(key) for key in graph.toposorted_asset_keys}
        for graph in graphs
    )
    changed = {key for key in before if before[key].code_version != after[key].code_version}
    assert changed == {"prior", "prior_study"}  # whose settings hold the prior's
    partitions = {key: node.partitions_def for key, node in after.items()}
    assert "5%|shifted-k64" in partitions["prior"].get_partition_keys()
    assert partitions["caption_subset"].get_partition_keys() == ["5%"]
    assert "shifted-k64" not in before["gaussian_bank"].partitions_def.get_partition_keys()


def test_tokens_made_online_make_the_text_embeddings_stale_and_nothing_else() -> None:
    """What is trained on them becomes stale by their content."""
    cached, online = (
        build_definitions(Settings.load({}, overrides=given)).resolve_asset_graph()
        for given in ([], ["text_features=online"])
    )
    changed = {
        key.to_user_string()
        for key in cached.toposorted_asset_keys
        if cached.get(key).code_version != online.get(key).code_version
    }
    assert changed == {"text_embeddings"}


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("My Photos", "my-photos"), ("../../victim", "victim"), ("..", "my-data"), ("", "my-data"),
        ("/etc", "etc"), ("a:b", "a-b"), ("Bob's", "bob-s"), ("cjk [old]", "cjk-old"),
        ("Äpfel", "apfel"), ("日本", "my-data"), ("emoji", "emoji-data"), ("-x", "x"),
        ("a.b", "a-b"), ("a" * 65, "a" * 64),
    ],
)  # fmt: skip
def test_a_bad_dataset_name_is_refused_and_a_good_one_proposed(name: str, proposed: str) -> None:
    with pytest.raises(CorgiError) as error:
        Settings.load({}, dataset=name)
    assert error.value.remedy == f"choose another name, such as {proposed}"
    assert Settings.load({}, dataset=proposed).dataset == proposed


def test_a_files_name_is_no_presets_and_names_its_own_workspace_and_data(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match=r"my.yaml: emoji-small is the name of a preset"):
        Settings.load({}, config=written(tmp_path, "name: emoji-small"))
    settings = Settings.load({}, config=written(tmp_path, "name: large"))
    assert (settings.workspace, settings.dataset) == ("large", "large.own")
    unnamed = Settings.load({}, config=written(tmp_path, "seed: 1"))
    assert (unnamed.workspace, unnamed.dataset) == ("emoji", "emoji")


names = st.from_regex(NAME, fullmatch=True).filter(lambda name: len(name) <= 64)
pairs = st.tuples(
    st.sampled_from(PRESETS) | names, st.none() | names.filter(lambda name: name not in PRESETS)
)


def settings_of(preset: str, dataset: str | None) -> Settings:
    base = preset if preset in PRESETS else "emoji"
    return Settings.load(
        {"CORGI_HOME": "/h", "CORGI_DATA": "/d"}, preset=base, dataset=dataset,
        overrides=[] if base == preset else [f"name='{preset}'"],
    )  # fmt: skip


@given(pairs, pairs)
def test_no_two_presets_and_datasets_share_a_workspace(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    assume(one != other)
    first, second = settings_of(*one), settings_of(*other)
    assert first.state != second.state
    if one[1] != other[1] or one[1] is None:
        assert first.dataset_folder != second.dataset_folder
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", first.workspace)


def test_data_and_artefacts_may_lie_on_s3_and_state_may_not() -> None:
    given = {"CORGI_DATA": "s3://bucket/data", "CORGI_STORAGE": "s3://bucket/artefacts"}
    settings = Settings.load(given, dataset="photos")
    assert str(settings.dataset_folder / "images") == "s3://bucket/data/photos/images"
    assert str(settings.storage) == "s3://bucket/artefacts"
    assert not settings.under_dvc
    with pytest.raises(CorgiError, match="CORGI_HOME is s3://bucket/home, and the databases"):
        Settings.load({"CORGI_HOME": "s3://bucket/home"})


def test_settings_on_s3_reach_a_child(tmp_path: Path) -> None:
    given = {"CORGI_HOME": str(tmp_path), "CORGI_DATA": "s3://bucket/data"}
    child = Settings.load(given).child_environment({})
    assert child["CORGI_DATA"] == "s3://bucket/data"
    assert Settings.load(child).data == Settings.load(given).data
