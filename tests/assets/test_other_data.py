"""Pictures without captions: their decoder, a prior of other data, and captions that come later."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient
from PIL import Image

from corgi_core.decoders.registry import load_decoder
from corgi_core.io.files import digest_of_file
from corgi_core.io.model_index import MODELS_FILE, ModelIndex, champion_of
from corgi_core.prior.model import PriorModel
from orchestration.resources.promotion_history import PROMOTIONS, History
from tests.helpers.tiny_corgi import SMALL_PRESET, Corgi, corgi_in
from tests.helpers.tiny_pipeline import png, tiny_pipeline

PRESET = SMALL_PRESET.replace(
    "variants: [baseline, shifted-k1]\ndata: {",
    "variants: [baseline]\ncaption_subsets: [100%]\nlanguage_free: null\n"
    "data: {test_fraction: 0.3, validation_fraction: 0.3, ",
)
WITHOUT = 12  # of the pictures, after the first captions came
MODELS = ("clip_encoder", "decoder", "prior")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and the prior and CLIP of other data."""
    home = tmp_path_factory.mktemp("other")
    (home / "pictures").mkdir()
    for number in range(40):
        (home / "pictures" / f"{number}.png").write_bytes(png(number))
    parts = tiny_pipeline()
    parts.clip.save(home / "their" / "clip_encoder")
    parts.prior.save(home / "their" / "prior")
    return home


@pytest.fixture(scope="module")
def corgi(home: Path) -> Corgi:
    """With a decoder that is trained in the demo, on pictures that nobody has described."""
    corgi = corgi_in(home, PRESET, CORGI_CLIP="their/clip_encoder", CORGI_DATASET="mine")
    done = corgi("ingest", "pictures", "--format", "imagefolder", "--name", "mine")
    assert done.returncode == 0, done.stderr
    done = corgi("run", "--dataset", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a decoder was trained, and no prior" in done.stdout
    assert "--prior FOLDER" in done.stdout
    return corgi


def test_their_prior_generates_with_our_decoder(home: Path, corgi: Corgi) -> None:
    done = corgi("generate", "a cat", "--dataset", "mine", "--prior", "./their/prior")
    assert done.returncode == 0, done.stderr
    made = json.loads(Image.open(home / "picture.png").text["corgi"])
    storage = home / ".corgi" / "emoji-small.mine" / "storage"
    assert made["decoder"] == load_decoder(storage / "decoder" / "pca").digest
    assert made["prior"] == PriorModel.load(home / "their" / "prior").digest
    assert not (storage / "prior").exists()


@pytest.mark.parametrize(
    ("what", "problem"),
    [("encoder", "different CLIP encoders"), ("text_encoder", "tokens of the text encoder other")],
)
def test_a_prior_that_does_not_fit_is_refused(
    home: Path, corgi: Corgi, tmp_path: Path, what: str, problem: str
) -> None:
    prior = PriorModel.load(home / "their" / "prior")
    prior.encoders[what] = "other"
    prior.save(tmp_path / "prior")
    done = corgi("generate", "a cat", "--dataset", "mine", "--prior", f"{tmp_path}/prior")
    assert done.returncode == 2
    assert problem in " ".join(done.stderr.split())


def test_without_a_prior_the_message_says_what_is_missing(corgi: Corgi) -> None:
    done = corgi("generate", "a cat", "--dataset", "mine")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "nothing is registered" in said
    assert "emoji-small.mine" in said
    assert "--prior FOLDER" in said


@dataclass(frozen=True)
class Captioned:
    """The workspace after captions came twice.

    Attributes:
        first: What `corgi run` printed, after the first of them.
        again: What `corgi retrain` printed, after the others.
        weights: The digests of all models' weights, by their folders: at first, after the run, and
            after the retrain.
        champion: The digest of the prior that the run made champion.
    """

    first: str
    again: str
    weights: tuple[dict[str, str], dict[str, str], dict[str, str]]
    champion: str


@pytest.fixture(scope="module")
def captioned(home: Path, corgi: Corgi) -> Captioned:
    """Captions for all pictures but a few, a run; captions for those of a proposal, a retrain."""
    state, table = home / ".corgi" / "emoji-small.mine", home / "pictures" / "metadata.csv"

    def done(*words: str) -> str:
        ended = corgi(*words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def weights() -> dict[str, str]:
        root = state / "storage"
        files = sorted(root.rglob("*.safetensors"))
        models = [path for path in files if path.relative_to(root).parts[0] in MODELS]
        return {str(path.relative_to(root)): digest_of_file(path) for path in models}

    def captions_come(names: list[str]) -> None:
        there = table.exists()
        with table.open("a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([] if there else [("file_name", "text")])
            writer.writerows((name, f"picture {name}") for name in names)
        done("ingest", "pictures", "--format", "imagefolder", "--name", "mine", "--replace")

    before = weights()
    captions_come([f"{number}.png" for number in range(40 - WITHOUT)])
    first, after = done("run", "--dataset", "mine"), weights()
    champion = ModelIndex.load(state / MODELS_FILE).models["prior"][champion_of("100%")].digest
    done("propose", "-n", "2", "--dataset", "mine", "--out", "asked.csv")
    with (home / "asked.csv").open(newline="") as file:
        asked = [row["file_name"] for row in csv.DictReader(file)]
    assert len(asked) == 2
    captions_come(asked)
    again = done("retrain", "--dataset", "mine", "--steps", "8")
    return Captioned(first, again, (before, after, weights()), champion)


def test_captions_for_pictures_that_were_there_train_priors_alone(captioned: Captioned) -> None:
    before, after, _ = captioned.weights
    assert {name.partition("/")[0] for name in before} == {"clip_encoder", "decoder"}
    assert before.items() < after.items()
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"prior"}
    assert "· decoder pca: unchanged" in captioned.first


def test_more_captions_retrain_the_prior_alone(home: Path, captioned: Captioned) -> None:
    """From the captions' arrival to the decision: weights, what it read, MLflow, the history."""
    _, before, after = captioned.weights
    assert before.keys() == after.keys()
    (changed,) = {name for name in after if after[name] != before[name]}
    assert changed == "prior/100%/baseline/model.safetensors"
    state = home / ".corgi" / "emoji-small.mine"
    with dg.DagsterInstance.from_config(str(state / "dagster")) as instance:
        found = instance.fetch_materializations(dg.AssetKey("prior"), limit=2).records
        events = [record.asset_materialization for record in found]
        decoders = instance.fetch_materializations(dg.AssetKey("decoder"), limit=9).records
    captions = [event.metadata["captions"].value for event in events if event]
    assert captions[0] == captions[1] + 2
    assert len(decoders) == 1
    assert f"from the prior {captioned.champion}, 8 steps; " in captioned.again
    card = json.loads((state / "storage" / changed).with_name("card.json").read_text())
    assert (card["parent"], card["generation"]) == (captioned.champion, 1)

    client = MlflowClient(f"sqlite:///{home / '.corgi' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("emoji-small.mine")
    assert experiment is not None
    below = f"tags.`parent.digest` = '{captioned.champion}'"
    (run,) = client.search_runs([experiment.experiment_id], below)
    assert run.info.status == "FINISHED"
    parent = client.get_model_version("emoji-small.mine-prior", run.data.tags["parent.version"])
    assert parent.tags["digest"] == captioned.champion
    digest = PriorModel.load((state / "storage" / changed).parent).digest
    entries = History(state / PROMOTIONS).entries()
    (entry,) = (e for e in entries if (e.alias, e.digest) == (champion_of("100%"), digest))
    assert f"8 steps; {entry.event}: " in captioned.again
