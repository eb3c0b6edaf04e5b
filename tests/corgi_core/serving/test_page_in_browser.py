"""The page of `corgi serve` in a real browser, on a phone's width and on a desktop's."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from corgi_core.encoders.embed import embed_images
from corgi_core.evaluation.nearest import TrainingImages
from corgi_core.serving.app import Api
from corgi_core.serving.engine import Engine
from corgi_core.serving.metrics import ServingMetrics
from corgi_core.serving.model import ServedModel
from tests.helpers.browsers import chromium
from tests.helpers.patience import PATIENCE
from tests.helpers.serving import serving_app
from tests.helpers.tiny_pipeline import with_gaussians, write_images

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.integration
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture(scope="module")
def address(pipeline, tmp_path_factory) -> Iterator[str]:
    images = write_images(tmp_path_factory.mktemp("images"))
    embedded = embed_images(pipeline.clip, images, None, tmp_path_factory.mktemp("embeddings"))
    model = ServedModel("tiny", with_gaussians(pipeline, 3), TrainingImages(images, embedded))
    engine = Engine(model)
    with serving_app(Api(engine, ServingMetrics()).app()) as port:
        yield f"http://127.0.0.1:{port}/"
    engine.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def resize(browser: Chrome, size: str) -> None:
    width, height = SIZES[size]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"},
    )


def ask(browser: Chrome, script: str, *values: Any) -> Any:
    return browser.execute_script("return " + script, *values)


def wait_until(browser: Chrome, condition: str) -> None:
    until = time.monotonic() + PATIENCE
    while not ask(browser, condition):
        text = ask(browser, "document.body.innerText")
        assert time.monotonic() < until, f"{condition}: {text}"
        time.sleep(0.02)


def open_page(browser: Chrome, address: str) -> None:
    browser.get("about:blank")
    browser.get(address)
    wait_until(browser, "byId('gaussian').options.length > 1")


def pictures(browser: Chrome, title: str) -> list[str]:
    """The pictures that the page has made, when it has made those of that title."""
    wait_until(browser, f"!running && byId('title').textContent === {title!r}")
    assert not ask(browser, "byId('problem').textContent")
    return ask(browser, "[...document.querySelectorAll('.picture img')].map(i => i.src)")


def guess(browser: Chrome) -> str:
    return ask(browser, "byId('guess').src")


def differ(*addresses: str) -> int:
    """The largest difference between two pictures' pixels, 0 … 255."""
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2]))), int)
        for each in addresses
    )
    return int(np.abs(a - b).max())


def give(browser: Chrome, name: str, value: str) -> None:
    field = browser.find_element(By.ID, name)
    field.clear()
    field.send_keys(value, Keys.ENTER)


@pytest.mark.parametrize("size", SIZES)
def test_a_caption_becomes_pictures_with_their_way_and_a_link(browser, address, size) -> None:
    resize(browser, size)
    open_page(browser, address + "?prior_steps=4")
    give(browser, "prompt", "a red apple")
    made = pictures(browser, "4 × “a red apple”")
    assert len(set(made)) == 4
    near = ask(browser, "[...document.querySelectorAll('.near img')].map(i => i.alt)")
    assert len(near) == 4 * 3
    assert all(each.startswith("Near it in training: ") for each in near)
    wait_until(browser, "!byId('way').hidden && way && animation === 0")
    assert differ(guess(browser), made[0]) <= 1  # where the way ends
    scrubber = browser.find_element(By.ID, "scrubber")
    scrubber.send_keys(Keys.HOME)
    assert ask(browser, "byId('scrubber').ariaValueText") == "0 of 4 steps, t = 1000"
    assert differ(guess(browser), made[0]) > 1
    before = ask(browser, "byId('map').toDataURL()")
    scrubber.send_keys(Keys.END)
    assert differ(guess(browser), made[0]) <= 1
    assert ask(browser, "byId('map').toDataURL()") != before
    narrow, height = (
        "document.documentElement.scrollWidth",
        "Math.min(...[...document.querySelectorAll",
    )
    assert ask(browser, narrow) <= SIZES[size][0]
    assert ask(browser, height + "('button')].filter(b => b.offsetHeight && !b.closest('#given'))"
               ".map(b => b.offsetHeight))") >= 36  # fmt: skip
    link = browser.current_url
    open_page(browser, link)
    assert pictures(browser, "4 × “a red apple”") == made
    browser.find_element(By.ID, "dice").click()
    wait_until(browser, f"!running && location.href !== {link!r}")
    assert set(pictures(browser, "4 × “a red apple”")).isdisjoint(made)
    browser.back()
    wait_until(browser, f"!running && images[0] === {made[0]!r}")
    errors = [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]
    assert not [each for each in errors if each["source"] != "network"]  # nor what a policy forbids


def test_pictures_that_are_given_are_in_the_link_too(browser, address) -> None:
    resize(browser, "desktop")
    open_page(browser, address + "?prompt=a+cat&num_images=1&seed=3")
    (made,) = pictures(browser, "“a cat”")
    browser.find_element(By.ID, "vary").click()
    varied = pictures(browser, "1 × what CLIP sees in the picture")
    assert varied != [made]
    assert not ask(browser, "byId('way').offsetHeight")
    open_page(browser, browser.current_url)
    assert pictures(browser, "1 × what CLIP sees in the picture") == varied
    give(browser, "prompt", "a dog")
    blended = pictures(browser, "1 × between the picture and “a dog”")
    assert blended != varied
    browser.execute_script("pictures.push(pictures[0]); refresh(); make()")
    wait_until(browser, "!byId('problem').hidden")
    said = "2 images and 1 captions were given. Give one or two captions"
    assert ask(browser, "byId('problem').textContent").startswith(said)


def test_two_captions_become_a_film(browser, address) -> None:
    resize(browser, "phone")
    open_page(browser, address)
    browser.find_element(By.ID, "prompt").send_keys("a cat")
    browser.find_element(By.ID, "add-second").click()
    give(browser, "second", "a dog")
    made = pictures(browser, "4 steps from “a cat” to “a dog”")
    wait_until(browser, "animation === 0")
    assert ask(browser, "byId('frame').src") == made[-1]
    browser.find_element(By.ID, "film-scrubber").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert ask(browser, "byId('frame').src") == made[1]
    assert ask(browser, "document.documentElement.scrollWidth") <= SIZES["phone"][0]


def test_the_start_can_be_chosen_and_a_mistake_is_explained(browser, address) -> None:
    resize(browser, "desktop")
    open_page(browser, address + "?prompt=a+cat&num_images=1&gaussian=2&prior_steps=6")
    pictures(browser, "“a cat”")
    assert ask(browser, "byId('gaussian').value") == "2"
    wait_until(browser, "way && way.gaussian === 2 && way.timesteps.length === 7")
    wait_until(browser, "byId('map').ariaLabel?.includes('starts at Gaussian 2 and moves 6 steps')")
    give(browser, "num_steps", "9999")
    wait_until(browser, "!byId('problem').hidden")
    assert ask(browser, "byId('problem').textContent").startswith("Decoder’s steps: Value must be")


def test_an_empty_seed_is_filled_in_and_the_link_is_of_what_was_asked_for(browser, address) -> None:
    resize(browser, "desktop")
    open_page(browser, address + "?prompt=a+cat&num_images=1")
    (by_seed_0,) = pictures(browser, "“a cat”")
    wait_until(browser, "way && animation === 0")  # of this picture: the next one's is waited for
    browser.execute_script(
        "byId('seed').value = ''; made = null; way = null; make(); pictures.push(1)"
    )
    wait_until(browser, "!running && made && way && animation === 0")
    made = pictures(browser, "“a cat”")
    assert made != [by_seed_0]
    link = browser.current_url
    assert "#" not in link  # the picture that was given while the server worked
    assert differ(guess(browser), made[0]) <= 1
    open_page(browser, link)
    assert pictures(browser, "“a cat”") == made


def test_a_link_of_the_api_is_taken_as_it_is(browser, address) -> None:
    resize(browser, "desktop")
    prompts = "?prompt=a+cat&prompt=a+dog"
    open_page(browser, address + prompts + "&num_images=20&guidance=1.25&weight=0.33")
    assert len(pictures(browser, "20 steps from “a cat” to “a dog”")) == 20
    assert ask(browser, "made.request.guidance") == 1.25
    assert ask(browser, "Number(byId('weight').value)") == 0.33


def test_a_picture_without_a_way_is_no_mistake(browser, address) -> None:
    resize(browser, "desktop")
    open_page(browser, address)
    browser.execute_script(
        "const real = fetch, none = new Response('{}', { status: 422 });"
        "window.fetch = (path, ...rest) => path === 'v1/trajectory'"
        " ? window.asked = Promise.resolve(none.clone()) : real(path, ...rest)"
    )
    give(browser, "prompt", "a cat")
    wait_until(browser, "window.asked && !running")
    pictures(browser, "4 × “a cat”")
    assert not ask(browser, "byId('way').offsetHeight")
