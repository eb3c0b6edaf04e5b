"""Votes are counted once and none is lost; the server refuses and names what is no vote."""

from __future__ import annotations

import io
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from corgi_core.errors import CorgiError
from corgi_core.rating.server import RatingPage
from corgi_core.rating.survey import Survey
from corgi_core.rating.votes import RefusedVoteError, VoteStore
from corgi_core.suites.folder import SuiteFolder
from tests.helpers.surveys import COLORS, small_store, small_suite

RATER, KEY = "rater-0001", "key-00000001"
PAGE = "http://127.0.0.1:8123"
BETTER, WORSE, SAME = [1, 2], [2, 1], [1, 1]


@pytest.fixture
def store(tmp_path: Path) -> VoteStore:
    return small_store(tmp_path, ["ours", "sd"])[1]


def answers(alignment=BETTER, fidelity=SAME, seconds=2.5) -> dict:
    return {"alignment": alignment, "fidelity": fidelity, "seconds": seconds}


def test_a_vote_is_stored_as_it_was_given(store: VoteStore) -> None:
    slots = store.survey.slots(RATER)
    assert store.record(KEY, slots[10], RATER, answers(), store.survey.digest)
    (vote,) = VoteStore(store.path).votes()
    assert (vote.rater, vote.slot, vote.repeats) == (RATER, 10, slots[10].repeats)
    assert (vote.prompt, vote.seed) == (slots[10].question.prompt, slots[10].question.seed)
    assert vote.models == slots[10].models
    assert (vote.alignment, vote.fidelity, vote.seconds) == ((1, 2), (1, 1), 2.5)


def test_a_replayed_vote_counts_once(store: VoteStore) -> None:
    slots = store.survey.slots(RATER)
    assert store.record(KEY, slots[0], RATER, answers(), store.survey.digest)
    assert not store.record(KEY, slots[0], RATER, answers(), store.survey.digest)
    with pytest.raises(RefusedVoteError, match="answered before"):
        store.record("another-key", slots[0], RATER, answers(WORSE), store.survey.digest)
    with pytest.raises(RefusedVoteError, match="answered before"):
        store.record(KEY, slots[1], RATER, answers(), store.survey.digest)
    (vote,) = store.votes()
    assert vote.alignment == (1, 2)


def test_many_raters_at_once_lose_no_vote(store: VoteStore) -> None:
    """Eight raters, each vote sent twice, by threads with connections of their own."""

    def vote(number: int) -> int:
        rater, slots = f"rater-{number:04}", store.survey.slots("x" * 8)
        keys = [f"key-{number}-{slot.number:04}" for slot in slots[:6]]
        sent = [*zip(keys, slots, strict=False)] * 2
        return sum(
            store.record(key, slot, rater, answers(), store.survey.digest) for key, slot in sent
        )

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(vote, range(8)))
    assert counted == [6] * 8
    assert len({(each.rater, each.slot) for each in store.votes()}) == 48


def test_the_file_is_a_write_ahead_log_that_waits_for_the_disk(store: VoteStore) -> None:
    with sqlite3.connect(store.path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store._transaction() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_store_keeps_the_survey_that_its_votes_answer(store: VoteStore, tmp_path: Path) -> None:
    folder = small_suite(tmp_path / "more", ["ours", "sd", "gan"])
    other, same = (Survey.of(folder, models, None, 5) for models in ([], ["ours", "sd"]))
    assert VoteStore.create(store.path, other).survey == other  # nobody has voted
    store.record(KEY, other.slots(RATER)[0], RATER, answers([2, 1, 3], [1, 2, 3]), other.digest)
    with pytest.raises(CorgiError, match="another survey, by ranking on gan, ours, sd"):
        VoteStore.create(store.path, same)
    assert VoteStore.create(store.path, Survey.of(folder, [], None, 9)).survey == other
    (folder.path / "ours" / "model.json").write_text('{"decoder": "trained again"}')
    with pytest.raises(CorgiError, match="pictures that were made otherwise"):
        VoteStore.create(store.path, Survey.of(folder, [], None, 9))


def test_two_pages_on_one_file_mix_no_surveys(store: VoteStore) -> None:
    folder, served = SuiteFolder.load(store.path.parent), store.survey
    same, other = (Survey.of(folder, [], None, count) for count in (40, 5))
    assert VoteStore.create(store.path, same).survey == served  # the first page's, whose votes come
    assert VoteStore.create(store.path, other).survey == other  # the second page's
    with pytest.raises(RefusedVoteError, match="another survey since"):
        store.record(KEY, served.slots(RATER)[0], RATER, answers(), served.digest)
    assert store.record(KEY, other.slots(RATER)[0], RATER, answers(), other.digest)


def test_a_public_name_is_a_plain_host_name(store: VoteStore) -> None:
    folder = SuiteFolder.load(store.path.parent)
    names = ["Rate.Example.org", "10.0.0.7"]
    assert RatingPage(folder, store, names).names == ("rate.example.org", "10.0.0.7")
    for name in ("https://rate.example.org", "rate.example.org:8443", "*", "*.org", "a/b", ""):
        with pytest.raises(CorgiError, match="is no host name"):
            RatingPage(folder, store, [name])


def test_what_is_no_file_of_votes_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorgiError, match="there is no"):
        VoteStore(tmp_path / "votes.sqlite").votes()
    (tmp_path / "votes.sqlite").write_text("something else, long enough to be no database" * 9)
    with pytest.raises(CorgiError, match="no file of votes"):
        VoteStore(tmp_path / "votes.sqlite").votes()


@pytest.fixture
def client(store: VoteStore) -> TestClient:
    page = RatingPage(SuiteFolder.load(store.path.parent), store, ["rate.example.org"])
    return TestClient(page.app(), base_url=PAGE)


def vote_on(asked: dict, **changed: object) -> dict:
    vote = {"key": KEY, "survey": asked["survey"], "rater": RATER, "slot": asked["slot"]}
    return {**vote, **answers(), **changed}


def send(client: TestClient, vote: object, **headers: str) -> tuple[int, dict]:
    done = client.post("/votes", json=vote, headers={"Origin": PAGE, **headers})
    return done.status_code, done.json()


def test_the_page_asks_one_question_after_the_other(client: TestClient, store: VoteStore) -> None:
    asked = client.get("/next", params={"rater": RATER}).json()
    slot = store.survey.slots(RATER)[0]
    assert (asked["slot"], asked["answered"], asked["prompt"]) == (0, 0, slot.question.text)
    assert asked == client.get("/next", params={"rater": RATER}).json()  # loaded again
    vote = vote_on(asked)
    assert send(client, vote) == (200, {"counted": True, "new": True})
    assert send(client, vote) == (200, {"counted": True, "new": False})
    following = client.get("/next", params={"rater": RATER}).json()
    assert (following["slot"], following["answered"]) == (1, 1)
    assert client.get("/next", params={"rater": "rater-0002"}).json()["slot"] == 0


def test_nothing_that_a_browser_gets_names_a_model(
    client: TestClient, store: VoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/next", params={"rater": RATER})
    assert not any(model in answer.text for model in store.survey.models)
    models = store.survey.slots(RATER)[0].models
    for address, model in zip(answer.json()["pictures"], models, strict=True):
        content = client.get(f"/{address}").content
        with Image.open(io.BytesIO(content)) as image:
            assert image.getpixel((0, 0)) == COLORS[model]
            assert not image.info
        assert model.encode() not in content
    path = store.path.parent / models[0] / str(store.survey.slots(RATER)[0].question.prompt)
    for picture in path.glob("*.png"):
        picture.write_bytes(b"no picture")
    assert client.get(f"/{answer.json()['pictures'][0]}").status_code == 409
    assert f"cannot be shown {path}" in caplog.text  # the one who serves them is told


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slot": 999}, "no such question"),
        ({"slot": -1}, "no such question"),
        ({"slot": "0"}, "no such question"),
        ({"slot": True}, "no such question"),
        ({"rater": "../x"}, "no such question"),
        ({"rater": None}, "no such question"),
        ({"survey": "another"}, "another survey"),
        ({"key": ""}, "the key is none"),
        ({"alignment": [1, 3]}, r"does not rank 2 pictures by alignment"),
        ({"alignment": [2, 2]}, "does not rank"),
        ({"fidelity": None}, "does not rank 2 pictures by fidelity"),
        ({"fidelity": [True, 2]}, "does not rank"),
        ({"key": "k" * 5000}, "too long"),
    ],
)
def test_what_is_no_vote_is_refused_and_named(
    client: TestClient, store: VoteStore, changed: dict, said: str
) -> None:
    asked = client.get("/next", params={"rater": RATER}).json()
    assert send(client, vote_on(asked))[0] == 200
    vote = vote_on(client.get("/next", params={"rater": RATER}).json(), key="key-00000002")
    status, answer = send(client, {**vote, **changed})
    assert (status, answer["counted"]) == (409, False)
    assert said in answer["problem"]
    assert len(store.votes()) == 1  # what counted before still does


def test_votes_from_other_pages_and_hosts_are_refused(client: TestClient, store: VoteStore) -> None:
    asked = client.get("/next", params={"rater": RATER}).json()
    vote = vote_on(asked)
    for origin in ("https://evil.example", "null", "", "http://127.0.0.1:9"):
        assert "another page" in send(client, vote, Origin=origin)[1]["problem"]
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    for content, kind in (
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b"{}", "text/plain"),
    ):
        headers = {"Origin": PAGE, "Content-Type": kind}
        assert client.post("/votes", content=content, headers=headers).status_code == 409
    assert not store.votes()
    for host in ("rate.example.org", "127.0.0.1:8123"):  # a proxy passes the name on, or does not
        behind = {"Host": host, "Origin": "https://rate.example.org"}
        assert send(client, vote, **behind)[0] == 200


def test_the_page_may_load_nothing_else(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert 'name="viewport"' in answer.text
    assert "http" not in answer.text


def test_a_ranking_has_no_ties(tmp_path: Path) -> None:
    _, store = small_store(tmp_path, list(COLORS))
    slot = store.survey.slots(RATER)[0]
    with pytest.raises(RefusedVoteError, match="does not rank 4 pictures"):
        store.record(KEY, slot, RATER, answers([1, 1, 2, 3], [1, 2, 3, 4]), store.survey.digest)
    assert store.record(KEY, slot, RATER, answers([4, 1, 2, 3], [1, 2, 3, 4]), store.survey.digest)
