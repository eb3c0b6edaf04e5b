"""The gate among registered priors, and people's commands beside it, on a registry in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result
from upath import UPath

from assets.promotion import Gate, check_result
from assets.registry import register_priors, set_by_preset
from corgi_core.errors import CorgiError
from corgi_core.evaluation.report import BASELINES, SHUFFLED, Evaluation
from corgi_core.io.model_index import CHAMPION, ModelIndex, champion_of
from corgi_core.pipeline import CorgiPipeline
from corgi_core.prior.model import PriorModel
from orchestration.cli.app import cli
from orchestration.resources.champions import Champions
from orchestration.resources.model_registry import Registry
from orchestration.resources.promotion_history import Entry, Event
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings
from tests.helpers.protocols import a_protocol
from tests.helpers.smallest_model import Model

ALL, FEW = champion_of("100%"), champion_of("10%")
NOISE = np.random.default_rng(0).normal(0, 0.01, (9, 100))
NAMES = {
    ("baseline", "100%"): 0.5, ("shifted-k1", "100%"): 0.6, ("baseline", "10%"): 0.4,
}  # fmt: skip
"""The first priors, with their validation cosines."""


def prior_of(pipeline: CorgiPipeline, number: int, **encoders: str) -> PriorModel:
    """One of another digest for every number."""
    prior = pipeline.prior
    settings = replace(prior.settings, guidance=1.0 + number)
    return PriorModel(prior.network, prior.bank, settings, prior.encoders | encoders, {})


def evaluation_of(cosines: dict[str, float]) -> Evaluation:
    """Of models with these mean validation cosines, by digest or name."""
    rows = [
        pd.DataFrame({"key": [f"{n:02}" for n in range(100)], "cosine": cosine + noise, "rank": 2})
        .assign(model=model)
        for (model, cosine), noise in zip(cosines.items(), NOISE)  # noqa: B905
    ]  # fmt: skip
    whole = {"cosine": 0.1, "count": 9}
    metrics = {
        "protocol": a_protocol().stored, "baselines": dict.fromkeys(BASELINES, whole),
        "priors": {"v": {"100%": {"4": whole | {SHUFFLED: whole}}}},
    }  # fmt: skip
    return Evaluation(metrics, validation=pd.concat(rows))


class World:
    """A workspace with a registry, whose priors are registered and decided on."""

    def __init__(self, home: Path, pipeline: CorgiPipeline) -> None:
        self.environment = {"CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data")}
        self.settings = Settings.load(self.environment)
        self.pipeline, self.cosines = pipeline, dict[str, float]()
        self.registry = Registry(MLflow.of(self.settings))
        self.champions = Champions(self.registry)

    def decide(
        self, priors: dict[tuple[str, str], tuple[int, float]], failed: Sequence[str] = ()
    ) -> list[Entry]:
        """Register priors by name, each a number and a cosine, and decide."""
        versions = {}
        for (variant, subset), (number, cosine) in priors.items():
            model = prior_of(self.pipeline, number)
            tags = {"variant": variant, "caption_subset": subset}
            versions[variant, subset] = self.registry.register("prior", model, tags, "A.")
            self.cosines[model.digest] = cosine
        evaluation = evaluation_of(self.cosines)
        evaluation.save(UPath(self.settings.storage) / "evaluation")
        encoders = self.pipeline.prior.encoders
        with self.champions.deciding() as found:
            gate = Gate(self.registry, self.champions, evaluation, encoders, failed)
            return found + gate.decide(versions)

    def corgi(self, *words: str) -> Result:
        return CliRunner().invoke(cli, words, env=self.environment | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pipeline: CorgiPipeline) -> World:
    """In which the first champions are chosen; its tests go on from each other."""
    made = World(tmp_path_factory.mktemp("home"), pipeline)
    blocked = made.decide({("baseline", "100%"): (0, 0.5)}, ["images: manifest"])
    assert [(e.event, e.alias) for e in blocked] == [(Event.REFUSED, ALL)]
    assert not check_result(blocked, ["images: manifest"]).passed
    made.decide({name: (number, c) for number, (name, c) in enumerate(NAMES.items())})
    return made


def test_the_first_champions_are_the_best_of_their_fractions_and_the_best_of_these(
    world: World,
) -> None:
    assert world.registry.aliases("prior") == {ALL: "2", FEW: "3", CHAMPION: "2"}
    present = world.champions.history.present("prior")
    assert {alias: entry.version for alias, entry in present.items()} == {
        ALL: "2", FEW: "3", CHAMPION: "2",
    }  # fmt: skip


def test_a_retrained_prior_is_promoted_or_refused_and_the_best_of_all_follows(
    world: World,
) -> None:
    entries = world.decide(
        {("shifted-k1", "100%"): (3, 0.7), ("baseline", "10%"): (4, 0.39)}
    )  # fmt: skip
    assert [(e.event, e.alias, e.version) for e in entries] == [
        (Event.PROMOTED, ALL, "4"), (Event.FOLLOWED, CHAMPION, "4"), (Event.REFUSED, FEW, "5"),
        (Event.REFUSED, CHAMPION, "3"),
    ]  # fmt: skip
    cosine = entries[0].numbers["scores"][0]
    assert (round(cosine["a"], 2), round(cosine["b"], 2)) == (0.6, 0.7)
    assert cosine["low"] > 0
    check = check_result(entries, [])
    assert check.passed
    assert f"prior {FEW}: baseline, 10% refused, worse: cosine" in str(check.description)
    assert "promoted: better: cosine" in world.registry.versions("prior")["4"].tags[
        f"promotion.{ALL}"
    ]  # fmt: skip


def test_people_roll_back_and_promote_and_the_gate_does_not_undo_it(world: World) -> None:
    back = world.corgi("rollback", "--fraction", "100%", "--reason", "pictures are grey")
    assert back.exit_code == 0, back.output
    assert world.registry.aliases("prior") == {ALL: "2", FEW: "3", CHAMPION: "2"}
    index = ModelIndex.load(world.settings.state / "models.json")
    assert index.folder("prior", ALL).samefile(world.registry.model("prior", "2").folder)
    assert world.decide({("shifted-k1", "100%"): (3, 0.7)}) == []  # it was rolled back from
    by_hand = world.corgi("promote", "shifted-k1", "--fraction", "100", "--reason", "not its fault")
    assert by_hand.exit_code == 0, by_hand.output
    assert world.champions.present("prior", ALL) == "4"
    entry = world.champions.history.champions("prior", ALL)[-1]
    assert (entry.event, entry.reason) == (Event.BY_HAND, "not its fault")
    assert entry.numbers["gate"].startswith("promoted: better")


def test_a_model_without_scores_is_refused_unless_forced_and_a_wrong_one_is_named(
    world: World,
) -> None:
    tags = {"variant": "new", "caption_subset": "10%"}
    version = world.registry.register("prior", prior_of(world.pipeline, 9), tags, "A.")
    words = ("promote", version, "--fraction", "10%", "--reason", "hope")
    refused = world.corgi(*words)
    assert refused.exit_code == 2
    assert "no validation scores of the latest evaluation" in refused.output
    assert world.corgi(*words, "--force").exit_code == 0
    assert world.champions.present("prior", FEW) == version
    wrong = world.corgi("promote", "4", "--fraction", "10%", "--reason", "x")
    assert "no prior '4' that learned from 10% of the captions" in wrong.output


def test_a_champion_of_other_encoders_is_replaced(world: World) -> None:
    """It could not generate with today's."""
    tags = {"variant": "other", "caption_subset": "10%"}
    other = prior_of(world.pipeline, 10, encoder="another CLIP")
    version = world.registry.register("prior", other, tags, "A.")
    world.corgi("promote", version, "--fraction", "10%", "--reason", "x", "--force")
    entry, of_all = world.decide({("baseline", "10%"): (2, 0.4)})
    assert (of_all.event, of_all.alias) == (Event.REFUSED, CHAMPION)
    assert (entry.event, entry.alias, entry.version) == (Event.PROMOTED, FEW, "3")
    assert "belongs to other encoders than today's" in entry.reason


def test_a_champion_that_cannot_be_read_now_stays_and_one_whose_files_are_gone_does_not(
    world: World,
) -> None:
    better = {("baseline", "10%"): (11, 0.5)}
    config = world.registry.model("prior", "3").folder / "config.json"
    content = config.read_text()
    config.write_text(content.replace('"kind": "prior"', '"kind": "prior of tomorrow"'))
    refused, _ = world.decide(better)
    assert (refused.event, refused.alias) == (Event.REFUSED, FEW)
    assert "cannot be read now" in refused.reason
    config.unlink()
    promoted, *_ = world.decide(better)
    config.write_text(content)
    assert (promoted.event, promoted.alias) == (Event.PROMOTED, FEW)
    assert "the files of the champion" in promoted.reason


def test_the_gate_does_not_undo_what_somebody_did_in_mlflow(world: World) -> None:
    client, name = MLflow.of(world.settings).client(), world.registry.name("prior")
    client.set_registered_model_alias(name, FEW, "3")
    found = world.decide({("baseline", "10%"): (11, 0.5)})
    assert [(e.event, e.version) for e in found if e.alias == FEW] == [(Event.ROLLED_BACK, "3")]
    assert not check_result(found, []).passed


def test_the_preset_does_not_either_until_its_model_is_trained_anew(world: World) -> None:
    first, other, newer = (
        world.registry.register("clip", Model(digest), {}, "A.") for digest in ("aaa", "bbb", "ccc")
    )
    with world.champions.deciding():
        assert len(set_by_preset(world.champions, "clip", first, "the preset's")) == 1
    client, name = MLflow.of(world.settings).client(), world.registry.name("clip")
    client.set_registered_model_alias(name, CHAMPION, other)
    with world.champions.deciding():
        assert set_by_preset(world.champions, "clip", first, "the preset's") == []
        assert world.champions.present("clip") == other
        assert len(set_by_preset(world.champions, "clip", newer, "the preset's")) == 1


def test_a_prior_that_was_trained_after_the_evaluation_has_not_its_scores(world: World) -> None:
    scored, newer = prior_of(world.pipeline, 20), prior_of(world.pipeline, 21)
    evaluation = evaluation_of({scored.digest: 0.5})
    evaluation.metrics["priors"] = {"v": {"10%": {"4": {"cosine": 0.1, "count": 9}}}}
    with pytest.raises(CorgiError, match="scores of none of the priors"):
        register_priors(world.registry, evaluation, {"10%|v": newer})
    assert list(register_priors(world.registry, evaluation, {"10%|v": scored})) == [("v", "10%")]


def test_the_history_mends_a_deleted_alias_and_shows_all(world: World) -> None:
    client = MLflow.of(world.settings).client()
    client.delete_registered_model_alias(world.registry.name("prior"), CHAMPION)
    words = ("promote", "4", "--reason", "again", "--force")
    assert "another promotion" not in world.corgi(*words).output
    client.delete_registered_model_alias(world.registry.name("prior"), CHAMPION)
    (world.settings.state / "models.json").unlink()
    assert "has no prior 'v9'" in world.corgi("promote", "v9", "--reason", "x").output
    assert CHAMPION in ModelIndex.load(world.settings.state / "models.json").models["prior"]
    client.delete_registered_model_alias(world.registry.name("prior"), CHAMPION)
    printed = world.corgi("history").output
    assert world.champions.present("prior") == "4"
    for words in ("alias restored", "rolled back", "pictures are grey", "refused", "shifted-k1"):
        assert words in printed
