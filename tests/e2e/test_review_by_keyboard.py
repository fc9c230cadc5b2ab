"""Tests of `digits review` in a real browser, by keyboard, over several sessions."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from digits.data.labels import Answer, LabelLog
from tests.support.browser import chromium, is_available, show, wait_for_text
from tests.support.review_session import Scans, make_scans, serve_review

pytestmark = pytest.mark.browser

IMAGES = 120
TIMEOUT = 120


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start headless Chromium; yield its driver."""
    if not is_available():
        pytest.skip("there is no Chromium with its driver here (Debian: chromium, chromium-driver)")
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def scans(tmp_path: Path) -> Scans:
    """Return a table to review."""
    return make_scans(tmp_path, IMAGES)


def open_review(browser: Any, address: str) -> None:
    """Open the page and wait for its first image."""
    show(browser, address, "answered")
    wait_until_ready(browser)


def wait_until_ready(browser: Any) -> dict[str, Any]:
    """Wait until an image can be answered, and return it as the page knows it; None if no image is left."""
    WebDriverWait(browser, TIMEOUT).until(lambda it: it.execute_script("return ready || place >= total"))
    found: dict[str, Any] = browser.execute_script(
        "return place < total ? item(place).then((i) => ({...i, place})) : null"
    )
    return found


def press(browser: Any, *keys: str) -> None:
    """Press keys, each when the page is ready for it."""
    for key in keys:
        wait_until_ready(browser)
        browser.find_element(By.TAG_NAME, "body").send_keys(key)


def wait_until_saved(browser: Any) -> None:
    """Wait until the page has sent all answers."""
    WebDriverWait(browser, TIMEOUT).until(lambda it: it.execute_script("return !outbox.length"))
    wait_for_text(browser, "all saved")


def answers(scans: Scans) -> list[Answer]:
    """Return the answers that count."""
    return LabelLog(scans.root / "labels").answers()


def test_labels_and_undo_are_logged_and_the_next_session_resumes(browser: Any, scans: Scans) -> None:
    with serve_review(scans, "--sample", "30") as (_, address):
        open_review(browser, address)
        shown = []
        for key in ("3", Keys.ENTER, "n", "s", " ", "0"):
            shown.append(wait_until_ready(browser))
            press(browser, key)
        assert [image["place"] for image in shown] == list(range(6))
        press(browser, "u")
        assert wait_until_ready(browser)["place"] == 5
        press(browser, Keys.BACKSPACE)
        assert wait_until_ready(browser)["place"] == 4
        press(browser, "8")
        wait_until_saved(browser)
        assert "5 of" in browser.find_element(By.ID, "count").text
    suggested = [image["suggestion"] for image in shown]
    expected = ["3", suggested[1], "not-a-digit", "skip", "8"]
    assert [(answer.sha256, answer.label) for answer in answers(scans)] == [
        (image["sha256"], label) for image, label in zip(shown, expected, strict=False)
    ]
    with serve_review(scans, "--sample", "30") as (_, address):
        open_review(browser, address)
        assert wait_until_ready(browser)["place"] == 5
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.CONTROL, "z")
        assert wait_until_ready(browser)["place"] == 4
        wait_until_saved(browser)
    assert [answer.label for answer in answers(scans)] == expected[:4]


def test_a_finished_review_shows_the_estimate_of_the_table(browser: Any, scans: Scans) -> None:
    with serve_review(scans, "--sample", "20") as (_, address):
        open_review(browser, address)
        right = total = 0
        while image := wait_until_ready(browser):
            truth = scans.truth[image["sha256"]]
            total += 1
            right += truth == image["suggestion"]
            press(browser, truth)
        wait_until_saved(browser)
        wait_for_text(browser, "No images left to label")
        wait_for_text(browser, "All rows, including flagged ones")
        press(browser, "u")
        assert wait_until_ready(browser)["place"] == total - 1
        press(browser, scans.truth[wait_until_ready(browser)["sha256"]])
        wait_until_saved(browser)
    labels = {answer.sha256: answer.label for answer in answers(scans)}
    assert len(labels) == total
    assert labels == {sha256: scans.truth[sha256] for sha256 in labels}
    assert (
        sum(answer.label == answer.prediction and answer.status != "not-a-digit" for answer in answers(scans)) == right
    )


def test_answers_wait_in_the_page_while_the_server_is_down(browser: Any, scans: Scans) -> None:
    with serve_review(scans, "--sample", "20") as (process, address):
        open_review(browser, address)
        press(browser, "1")
        wait_until_saved(browser)
        process.send_signal(signal.SIGSTOP)
        press(browser, "2", "3")
        wait_for_text(browser, "2 not saved yet")
        assert [answer.label for answer in answers(scans)] == ["1"]
        process.send_signal(signal.SIGCONT)
        wait_until_saved(browser)
        assert [answer.label for answer in answers(scans)] == ["1", "2", "3"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        press(browser, "4")
        wait_for_text(browser, "1 not saved yet: the server does not answer; trying again")
    browser.execute_script("outbox.length = 0")


def test_an_image_that_has_changed_is_skipped(browser: Any, scans: Scans) -> None:
    with serve_review(scans, "--sample", "20") as (_, address):
        open_review(browser, address)
        second = browser.execute_script("return item(20)")
        (scans.table.parent / "scans" / second["path"]).write_bytes(b"changed")
        browser.execute_script("show(20)")
        wait_for_text(browser, f"{second['path']}: the file has changed since it was predicted; skipped")
        assert wait_until_ready(browser)["place"] == 21


def test_buttons_act_like_keys_and_keep_the_meaning_of_enter(browser: Any, scans: Scans) -> None:
    browser.get_log("browser")  # discard the messages of other tests
    with serve_review(scans, "--sample", "20") as (_, address):
        open_review(browser, address)
        press(browser, "?")
        assert browser.find_element(By.ID, "help").is_displayed()
        browser.find_element(By.TAG_NAME, "body").send_keys("7")
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        assert not browser.find_element(By.ID, "help").is_displayed()
        browser.find_element(By.CSS_SELECTOR, "button[data-label='5']").click()
        second = wait_until_ready(browser)
        press(browser, Keys.ENTER)
        wait_until_ready(browser)
        browser.execute_script("document.querySelector(\"button[data-label='9']\").focus()")
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        wait_until_saved(browser)
    assert [answer.label for answer in answers(scans)] == ["5", second["suggestion"], "9"]
    assert browser.get_log("browser") == []
