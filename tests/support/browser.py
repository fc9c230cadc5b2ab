"""Headless Chromium, and the pages of the Prefect UI in it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

TIMEOUT = 120
SUBMISSIONS = 5
REFUSED = "Something went wrong"
"""Text that the Prefect UI shows if the server refuses a request, for example because its database is locked."""
PROGRAMS = ("chromium", "chromedriver")
"""Programs of Debian's packages chromium and chromium-driver."""


def is_available() -> bool:
    """Return whether Chromium and its driver are installed."""
    return all(map(shutil.which, PROGRAMS))


@contextmanager
def chromium(profile: Path, *given: str) -> Iterator[Any]:
    """Start Chromium with a profile directory and further command-line options; yield its driver."""
    browser, driver = map(shutil.which, PROGRAMS)
    options = webdriver.ChromeOptions()
    options.binary_location = str(browser)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,1200", *given):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(driver)))
    try:
        yield started
    finally:
        started.quit()


def log_in(browser: Any, ui: str, password: str) -> None:
    """Let the Prefect UI at an address remember a password, given as `USER:PASSWORD`, as if it had been typed in."""
    kept = f"localStorage.setItem('prefect-password', btoa({json.dumps(password)}))"
    script = f"if (location.origin === {json.dumps(ui)}) {kept}"
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})


def show(browser: Any, page: str, text: str) -> None:
    """Open a page and wait until it contains a text."""
    browser.get(page)
    wait_for_text(browser, text)


def wait_for_text(browser: Any, text: str) -> None:
    """Wait until the page contains a text."""
    WebDriverWait(browser, TIMEOUT).until(lambda it: text in it.find_element(By.TAG_NAME, "body").text)


def wait_for_picture(browser: Any) -> str:
    """Wait until the page shows an embedded picture, and return its data URL."""

    def drawn(it: Any) -> str | None:
        for image in it.find_elements(By.CSS_SELECTOR, "img[src^='data:image/png']"):
            if it.execute_script("return arguments[0].naturalWidth", image) > 0:
                return str(image.get_attribute("src"))
        return None

    return str(WebDriverWait(browser, TIMEOUT).until(drawn))


def submit_folder(browser: Any, ui: str, deployment: str, folder: Path, picture: Path | None = None) -> None:
    """Fill in the form of predict/folder and submit it, again if the server is too busy to answer.

    Args:
        browser: driver of the browser.
        ui: address of the Prefect UI.
        deployment: ID of the deployment.
        folder: folder to predict.
        picture: file for a screenshot of the form.
    """
    form = f"{ui}/deployments/deployment/{deployment}/run"
    for _ in range(SUBMISSIONS):
        show(browser, form, "Folder or archive of images")
        browser.find_elements(By.TAG_NAME, "textarea")[0].send_keys(str(folder))
        if picture:
            browser.save_screenshot(str(picture))
        refused = _count_refusals(browser)
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        waiting = WebDriverWait(browser, TIMEOUT, ignored_exceptions=[StaleElementReferenceException])
        waiting.until(partial(_is_answered, form, refused))
        if browser.current_url != form:
            return
    raise AssertionError(f"the server refused the form {SUBMISSIONS} times")


def _is_answered(form: str, refused: int, browser: Any) -> bool:
    """Return whether the browser has left a form, or shows more refusals than before."""
    return browser.current_url != form or _count_refusals(browser) > refused


def _count_refusals(browser: Any) -> int:
    return str(browser.find_element(By.TAG_NAME, "body").text).count(REFUSED)
