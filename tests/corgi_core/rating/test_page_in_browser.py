"""The rating page in a real browser: keys, taps, a reload, two raters, and a server that goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from corgi_core.rating.server import RatingPage, listening_on, server_of
from corgi_core.rating.votes import VoteStore
from corgi_core.suites.folder import SuiteFolder
from tests.helpers.browsers import chromium
from tests.helpers.patience import PATIENCE
from tests.helpers.surveys import small_store

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium"), "390,844") as browser:
        # A phone's screen: the window itself is never as narrow.
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
        )
        yield browser


@contextmanager
def served(folder: SuiteFolder, store: VoteStore, port: int = 0) -> Iterator[int]:
    """The page on this port, until the block ends."""
    listener = listening_on(port)
    server = server_of(RatingPage(folder, store).app())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def wait_for(browser, words: str) -> str:
    until = time.monotonic() + PATIENCE
    while words not in (text := browser.execute_script("return document.body.innerText")):
        assert time.monotonic() < until, text
        time.sleep(0.02)
    return text


def ready(browser, question: str) -> None:
    """Wait until a question takes keys: its pictures are there."""
    wait_for(browser, question)
    until = time.monotonic() + PATIENCE
    while browser.execute_script("return busy"):
        assert time.monotonic() < until
        time.sleep(0.02)


def press(browser, *keys: str) -> None:
    browser.find_element(By.TAG_NAME, "body").send_keys(*keys)


def test_raters_vote_by_keys_and_taps_and_go_on_after_a_reload(browser, tmp_path) -> None:
    folder, store = small_store(tmp_path, ["ours", "sd"], questions=4)
    with served(folder, store) as port:
        browser.get(f"http://127.0.0.1:{port}")
        wait_for(browser, "Begin")
        press(browser, Keys.ENTER)
        ready(browser, "Question 1 of 4")
        sizes = "return [...document.querySelectorAll('button')].map(b => b.offsetHeight)"
        assert all(height == 0 or height >= 44 for height in browser.execute_script(sizes))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        press(browser, Keys.ENTER)  # nothing is chosen yet
        press(browser, "1", "3", Keys.BACKSPACE, Keys.ARROW_DOWN)
        browser.refresh()  # in the middle of a question
        ready(browser, "Question 1 of 4")
        press(browser, Keys.ENTER)
        ready(browser, "Question 2 of 4")
        press(browser, Keys.ENTER)
        for aspect, answer in (("alignment", 2), ("fidelity", 0)):
            browser.find_elements(By.CSS_SELECTOR, f"#{aspect} button")[answer].click()
        browser.find_element(By.ID, "send").click()
        ready(browser, "Question 3 of 4")
        address = browser.find_element(By.TAG_NAME, "img").get_attribute("src")
        rater = address.split("/")[-3]
        slot = store.survey.slots(rater)[2]
        question = slot.question
        file = folder.picture(slot.models[0], question.prompt, question.seed)
        picture = file.read_bytes()
        file.unlink()
        browser.refresh()
        wait_for(browser, "A picture cannot be loaded")
        press(browser, "1", "1", Keys.ENTER)  # no vote on what is not there
        file.write_bytes(picture)
        ready(browser, "Question 3 of 4")
    press(browser, "2", "2", Keys.ENTER)  # while nothing is served
    wait_for(browser, "does not answer")
    with served(folder, store, port):
        ready(browser, "Question 4 of 4")
        browser.execute_script("localStorage.clear(); location.reload()")  # another rater
        wait_for(browser, "Begin")
        press(browser, Keys.ENTER)
        ready(browser, "Question 1 of 4")
        press(browser, "3", "3", Keys.ENTER)
        ready(browser, "Question 2 of 4")
    by_rater: dict[str, list] = {}
    for vote in store.votes():
        by_rater.setdefault(vote.rater, []).append((vote.slot, vote.alignment, vote.fidelity))
    better, same, worse = (1, 2), (1, 1), (2, 1)
    assert sorted(by_rater.values(), key=len) == [
        [(0, worse, worse)],
        [(0, better, same), (1, worse, better), (2, same, same)],
    ]


def test_four_pictures_are_ranked(browser, tmp_path) -> None:
    folder, store = small_store(tmp_path, ["gan", "lafite", "ours", "sd"], questions=1)
    with served(folder, store) as port:
        browser.get(f"http://127.0.0.1:{port}")
        wait_for(browser, "Begin")
        browser.find_element(By.ID, "begin").click()
        ready(browser, "Question 1 of 1")
        assert len(browser.find_elements(By.CSS_SELECTOR, "#pictures img")) == 4
        press(browser, "3", "1", "1", "2", "4")  # what is ranked is not ranked again
        browser.execute_script(  # a proxy that answers in the page's stead, for a moment
            "const real = window.fetch; let left = 1; window.fetch = (path, options) =>"
            " left-- > 0 ? Promise.resolve(new Response('{}', {status: 404})) : real(path, options)"
        )
        for letter in (1, 3, 2, 3, 3, 0):  # D is taken back, and comes after C
            browser.find_elements(By.CSS_SELECTOR, "#fidelity button")[letter].click()
        press(browser, Keys.ENTER)
        wait_for(browser, "Thank you")
    (vote,) = store.votes()
    assert (vote.alignment, vote.fidelity) == ((2, 3, 1, 4), (4, 1, 2, 3))
    assert 0 < vote.seconds < PATIENCE
