"""Promotions, rollbacks and their history, on a real registry in SQLite."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from corgi_core.errors import CorgiError
from corgi_core.io.model_index import CHAMPION, ModelIndex, TextEncoderName, champion_of
from orchestration.resources.champions import DECISION_TAG, Champions, version_named
from orchestration.resources.model_registry import Registry
from orchestration.resources.promotion_history import PROMOTIONS, Entry, Event, History
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings
from tests.helpers import forked
from tests.helpers.patience import PATIENCE
from tests.helpers.smallest_model import Model

ALL, FEW = champion_of("100%"), champion_of("1.7%")
PROMOTE = """
import os
import sys
import time
from pathlib import Path
from corgi_core.errors import CorgiError
from orchestration.resources.champions import Champions
from orchestration.resources.model_registry import Registry
from orchestration.resources.promotion_history import Event
from orchestration.resources.tracking import MLflow
from orchestration.settings import Settings

version, folder = sys.argv[1], Path(sys.argv[2])
champions = Champions(Registry(MLflow.of(Settings.load(os.environ, dataset=sys.argv[3]))))
before = champions.present("prior", "champion-100")
(folder / f"ready-{version}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
try:
    with champions.deciding():
        champions.promote("prior", "champion-100", version, Event.BY_HAND, "a race", before)
except CorgiError as error:
    print(error.problem)
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one SQLite store, whose making takes a second."""
    return tmp_path_factory.mktemp("home")


def environment(home: Path) -> dict[str, str]:
    return {"CORGI_HOME": str(home / ".corgi"), "CORGI_DATA": str(home / "data")}


@pytest.fixture
def mlflow(home: Path, request: pytest.FixtureRequest) -> MLflow:
    """The store, with a workspace of the test's own."""
    return MLflow.of(Settings.load(environment(home), dataset=request.node.name[:60]))


@pytest.fixture
def champions(mlflow: MLflow) -> Champions:
    """Of a registry with three priors of all captions and one of few."""
    registry = Registry(mlflow)
    for digest, subset in (("aaa", "100%"), ("bbb", "100%"), ("ccc", "100%"), ("ddd", "1.7%")):
        registry.register("prior", Model(digest), {"variant": "v", "caption_subset": subset}, "A.")
    return Champions(registry)


def crown(champions: Champions, alias: str, *versions: str) -> None:
    with champions.deciding():
        for version in versions:
            before = champions.present("prior", alias)
            champions.promote("prior", alias, version, Event.PROMOTED, "better", before)


def events(champions: Champions, alias: str) -> list[tuple[str, str]]:
    return [(e.event.value, e.version) for e in champions.history.entries() if e.alias == alias]


def test_a_rollback_gives_back_the_champion_before_and_its_files_need_no_mlflow(
    champions: Champions, mlflow: MLflow, home: Path
) -> None:
    crown(champions, ALL, "1", "2", "3")
    crown(champions, CHAMPION, "3")
    registry = Registry(mlflow)
    for earlier, digest in (("2", "bbb"), ("1", "aaa")):
        with champions.deciding():
            champions.roll_back(ALL, "pictures looked worse")
        assert champions.present("prior", ALL) == earlier
        assert champions.present("prior") == earlier  # it was the same model
        registry.write_index(TextEncoderName("minilm", 8))
        database = home / ".corgi" / "mlflow" / "mlflow.db"
        database.rename(database.with_suffix(".away"))
        folder = ModelIndex.load(Path(mlflow.models_file)).folder("prior", ALL)
        assert Model.load(folder).digest == digest
        database.with_suffix(".away").rename(database)
    assert champions.history.rolled_back("prior", ALL) == {"bbb", "ccc"}
    with champions.deciding(), pytest.raises(CorgiError, match="no earlier model to go back to"):
        champions.roll_back(ALL, "again")
    with champions.deciding():
        champions.promote("prior", ALL, "3", Event.BY_HAND, "it was not its fault", "1")
    assert champions.history.rolled_back("prior", ALL) == {"bbb"}
    tags = registry.versions("prior")["3"].tags
    assert "it was not its fault" in tags[f"{DECISION_TAG}.{ALL}"]


def test_an_alias_that_was_deleted_in_mlflow_is_restored_and_one_that_was_moved_is_adopted(
    champions: Champions, mlflow: MLflow
) -> None:
    crown(champions, ALL, "1", "2")
    crown(champions, FEW, "4")
    client, name = mlflow.client(), Registry(mlflow).name("prior")
    client.delete_registered_model_alias(name, ALL)
    client.delete_registered_model_alias(name, FEW)
    client.set_registered_model_alias(name, FEW, "3")
    with champions.deciding() as found:
        assert [(e.event, e.alias, e.version) for e in found] == [
            (Event.RESTORED, ALL, "2"), (Event.ADOPTED, FEW, "3"),
        ]  # fmt: skip
    assert champions.present("prior", ALL) == "2"
    with champions.deciding() as found:
        assert found == []
    client.delete_registered_model_alias(name, ALL)
    client.delete_model_version(name, "2")
    with champions.deciding() as found:
        assert [(e.event, e.version) for e in found] == [(Event.RESTORED, "1")]
    assert "version 2 is gone" in found[0].reason
    assert events(champions, ALL)[-1] == ("alias restored", "1")


def test_a_champion_that_somebody_moves_in_mlflow_takes_the_title_from_the_other(
    champions: Champions, mlflow: MLflow
) -> None:
    crown(champions, ALL, "1", "2")
    client, name = mlflow.client(), Registry(mlflow).name("prior")
    for version, event, barred in (
        ("1", Event.ROLLED_BACK, {"2"}),
        ("3", Event.ADOPTED, {"1", "2"}),
    ):
        client.set_registered_model_alias(name, ALL, version)
        with champions.deciding() as found:
            assert [(e.event, e.version) for e in found] == [(event, version)]
        assert champions.barred("prior", ALL) == barred


def test_a_promotion_cut_short_is_carried_out_with_its_reason(
    champions: Champions, mlflow: MLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(champions, ALL, "1")
    crown(champions, CHAMPION, "1")

    def fails(*_: object) -> None:
        raise ConnectionError

    for method, version in (("alias", "2"), ("tag", "3")):
        with monkeypatch.context() as cut:
            cut.setattr(Registry, method, fails)
            with pytest.raises(ConnectionError):
                crown(champions, ALL, version)
        with champions.deciding() as found:
            assert [(e.event, e.alias, e.version) for e in found] == [
                (Event.FOLLOWED, CHAMPION, version), (Event.PROMOTED, ALL, version),
            ]  # fmt: skip
        assert champions.present("prior", ALL) == champions.present("prior") == version
        assert events(champions, ALL)[-1] == ("promoted", version)
        tags = Registry(mlflow).versions("prior")[version].tags
        assert tags[f"{DECISION_TAG}.{ALL}"].endswith("promoted: better")
    with champions.deciding() as found:
        assert found == []
    assert len(events(champions, ALL)) == 3


def test_a_champion_that_corgi_did_not_register_is_named_and_an_alias_of_one_is_left_out(
    champions: Champions, mlflow: MLflow, caplog: pytest.LogCaptureFixture
) -> None:
    crown(champions, ALL, "1")
    client, registry = mlflow.client(), Registry(mlflow)
    name = registry.name("prior")
    source = registry.versions("prior")["1"].source
    by_hand = str(client.create_model_version(name, source).version)
    client.set_registered_model_alias(name, "mine", by_hand)
    registry.write_index(TextEncoderName("minilm", 8))
    assert set(ModelIndex.load(Path(mlflow.models_file)).models["prior"]) == {ALL}
    assert "the alias mine of" in caplog.text
    with pytest.raises(CorgiError, match=f"has no prior '{by_hand}'"):
        version_named(registry, by_hand, None)
    client.set_registered_model_alias(name, ALL, by_hand)
    with pytest.raises(CorgiError, match="did not register"), champions.deciding():
        pass
    client.delete_registered_model_alias(name, ALL)
    with champions.deciding() as found:
        assert [(e.event, e.version) for e in found] == [(Event.RESTORED, "1")]


def test_the_same_refusal_twice_is_one_entry(champions: Champions) -> None:
    crown(champions, ALL, "1")
    for protocol in ("p", "p", "q"):
        champions.refuse("prior", ALL, "2", "worse", {"protocol": protocol})
    assert events(champions, ALL) == [("promoted", "1"), ("refused", "2"), ("refused", "2")]


def test_of_two_processes_that_replace_one_champion_one_wins(
    champions: Champions, mlflow: MLflow, home: Path, tmp_path: Path
) -> None:
    crown(champions, ALL, "1")
    outputs = {version: tmp_path / f"out-{version}" for version in ("2", "3")}
    own = Path(mlflow.models_file).parent.name.partition(".")[2]
    variables = os.environ | environment(home)
    running = {
        version: forked.start(PROMOTE, [version, str(tmp_path), own], variables, tmp_path, out)
        for version, out in outputs.items()
    }
    until = time.monotonic() + PATIENCE
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert time.monotonic() < until, [out.read_text() for out in outputs.values()]
        time.sleep(0.05)
    (tmp_path / "go").touch()
    codes = {version: program.wait() for version, program in running.items()}
    assert sorted(codes.values()) == [0, 3], [out.read_text() for out in outputs.values()]
    (winner,) = (version for version, code in codes.items() if code == 0)
    assert champions.present("prior", ALL) == winner
    assert events(champions, ALL) == [("promoted", "1"), ("promoted by hand", winner)]
    (lost,) = outputs.keys() - {winner}
    assert "another promotion was first" in outputs[lost].read_text()


def test_a_line_that_a_power_cut_tore_loses_no_other(tmp_path: Path) -> None:
    history = History(tmp_path / PROMOTIONS)
    one = Entry("2026-01-01T00:00:00+00:00", Event.PROMOTED, "prior", ALL, "1", "aaa", "v", "é")
    history.append(one)
    with history.path.open("ab") as file:
        file.write('{"moment": "é'.encode()[:-1])
    assert history.entries() == [one]
    history.append(one)
    assert history.entries() == [one, one]


def test_a_reason_may_have_any_character_and_a_disk_may_take_a_line_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, write = History(tmp_path / PROMOTIONS), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    reason = "pasted\u2028from\u2029a\x85page\r\n\x0c"
    one = Entry("2026-01-01T00:00:00+00:00", Event.BY_HAND, "prior", ALL, "1", "aaa", "v", reason)
    history.append(one)
    assert history.entries() == [one]
