"""Cases of Prefect's sources of settings, and Prefect's own answers to them.

`python -m tests.support.prefect_cases PLACE` prints the answers as JSON; see `ask_prefect`.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

SETTINGS = (("api", "url"), ("api", "auth_string"), ("api", "key"), ("server", "api", "auth_string"))
DEEP = "a = " + "[" * 5000 + "]" * 5000
LONG = "a = " + "9" * 200_000


@dataclass(frozen=True)
class Case:
    """Environment and files of a process.

    Args:
        environment: environment variables.
        here: files of the current directory: content by name.
        home: files of `~/.prefect`.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    here: Mapping[str, str] = field(default_factory=dict)
    home: Mapping[str, str] = field(default_factory=dict)


def url(name: str) -> str:
    return f"http://{name}:4200/api"


PROFILES = f"""
active = "one"
[profiles.one]
PREFECT_API_URL = "{url("one")}"
PREFECT_API_KEY = "key-of-one"
[profiles.two]
PREFECT_API_URL = "{url("two")}"
PREFECT_SERVER_API_AUTH_STRING = "server:two"
[profiles.none]
"""
PLACES = {
    "variable": Case({"PREFECT_API_URL": url("variable")}),
    "dotenv": Case(here={".env": f"PREFECT_API_URL={url('dotenv')}\n"}),
    "prefect.toml": Case(here={"prefect.toml": f'[api]\nurl = "{url("prefect.toml")}"\n'}),
    "pyproject": Case(here={"pyproject.toml": f'[tool.prefect.api]\nurl = "{url("pyproject")}"\n'}),
    "profile": Case(home={"profiles.toml": PROFILES}),
}
COMBINATIONS = {
    "+".join(names): Case(
        {key: value for name in names for key, value in PLACES[name].environment.items()},
        {key: value for name in names for key, value in PLACES[name].here.items()},
        {key: value for name in names for key, value in PLACES[name].home.items()},
    )
    for chosen in product((False, True), repeat=len(PLACES))
    for names in [[name for name, used in zip(PLACES, chosen, strict=True) if used]]
}
"""Each combination of the five sources."""
OTHER = {
    "empty variable": Case({"PREFECT_API_URL": ""}, home={"profiles.toml": PROFILES}),
    "empty in .env": Case(here={".env": "PREFECT_API_URL=\n"}, home={"profiles.toml": PROFILES}),
    "no value in .env": Case(here={".env": "PREFECT_API_URL\n"}, home={"profiles.toml": PROFILES}),
    "lower case": Case({"prefect_api_url": url("lower")}),
    "lower case in .env": Case(here={".env": f"prefect_api_url={url('lower')}\n"}),
    "syntax of .env": Case(
        here={".env": f"# one\nHOST=there\nexport PREFECT_API_URL='{url('a')}'\nPREFECT_API_KEY=\"${{HOST}}\" # x\n"}
    ),
    "passwords": Case(
        {"PREFECT_API_AUTH_STRING": "a:b", "PREFECT_SERVER_API_AUTH_STRING": "c:d"},
        {"prefect.toml": '[api]\nauth_string = "e:f"\nkey = "k"\n[server.api]\nauth_string = "g:h"\n'},
    ),
    "passwords in files": Case(
        here={
            "prefect.toml": '[api]\nauth_string = "e:f"\n',
            "pyproject.toml": '[tool.prefect]\nserver.api.auth_string = "g:h"\napi.auth_string = "i:j"\n',
        }
    ),
    "named profile": Case({"PREFECT_PROFILE": "two"}, home={"profiles.toml": PROFILES}),
    "profile of .env": Case(here={".env": "PREFECT_PROFILE=two\n"}, home={"profiles.toml": PROFILES}),
    "profile without an address": Case({"PREFECT_PROFILE": "none"}, home={"profiles.toml": PROFILES}),
    "unknown profile": Case({"PREFECT_PROFILE": "absent"}, home={"profiles.toml": PROFILES}),
    "profile of Prefect itself": Case({"PREFECT_PROFILE": "local"}),
    "no active profile": Case(home={"profiles.toml": PROFILES.replace("active", "other")}),
    "PREFECT_HOME": Case({"PREFECT_HOME": "."}, {"profiles.toml": PROFILES}),
    "empty PREFECT_HOME": Case(
        {"PREFECT_HOME": "nothing", "PREFECT_PROFILE": "local"}, home={"profiles.toml": PROFILES}
    ),
    "PREFECT_PROFILES_PATH": Case({"PREFECT_PROFILES_PATH": "mine", "PREFECT_HOME": "/x"}, {"mine": PROFILES}),
    "profiles path in .env": Case(here={".env": "PREFECT_PROFILES_PATH=mine\n", "mine": PROFILES}),
    "profiles path in prefect.toml": Case(here={"prefect.toml": 'profiles_path = "mine"\n', "mine": PROFILES}),
    "profiles path in pyproject.toml": Case(
        here={"pyproject.toml": '[tool.prefect]\nprofiles_path = "mine"\n', "mine": PROFILES}
    ),
    "test mode": Case({"PREFECT_TEST_MODE": "1"}, home={"profiles.toml": PROFILES}),
    "keys of other levels": Case(
        here={"prefect.toml": f'url = "{url("a")}"\nPREFECT_API_URL = "{url("b")}"\n', ".env": f"URL={url('c')}\n"}
    ),
    "table in place of a value": Case(here={"prefect.toml": '[api.url]\na = "b"\n'}),
    "invalid prefect.toml": Case(here={"prefect.toml": "a = "}),
    "invalid pyproject.toml": Case(here={"pyproject.toml": "a = "}),
    "invalid profiles": Case(home={"profiles.toml": "a = "}),
    "nested prefect.toml": Case(here={"prefect.toml": DEEP}),
    "nested pyproject.toml": Case(here={"pyproject.toml": DEEP}),
    "nested profiles": Case(home={"profiles.toml": DEEP}),
    "long number in prefect.toml": Case(here={"prefect.toml": LONG}),
    "long number in pyproject.toml": Case(here={"pyproject.toml": LONG}),
    "long number in profiles": Case(home={"profiles.toml": LONG}),
    "number in place of a text": Case(here={"prefect.toml": "[api]\nurl = 3\n"}),
    "number in place of a table": Case(here={"pyproject.toml": "[tool]\nprefect = 3\n"}),
    "number in place of profiles": Case(home={"profiles.toml": 'active = "a"\nprofiles = 3\n'}),
    "number in place of a profile": Case(home={"profiles.toml": 'active = "a"\n[profiles]\na = 3\n'}),
    "list in place of a name": Case(home={"profiles.toml": 'active = ["a"]\n'}),
    "text of another encoding in .env": Case(here={".env": "A=\udcff\n"}),
    "text of another encoding in profiles": Case(home={"profiles.toml": "a = '\udcff'\n"}),
}
CASES = {**COMBINATIONS, **OTHER}
ERROR = "error"
"""Answer in place of values where importing Prefect fails."""
Answer = list[str | None] | str
"""Values of `SETTINGS`, or `ERROR`."""


@contextmanager
def placed(case: Case, place: Path) -> Iterator[None]:
    """Set the environment and write the files of a case, below a directory; restore both in the end."""
    here, home = place / "here", place / "home"
    for folder, files in ((here, case.here), (home / ".prefect", case.home)):
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content, "utf-8", errors="surrogateescape")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("PREFECT_")}
    try:
        with patch.dict(os.environ, {**kept, **case.environment, "HOME": str(home)}, clear=True), chdir(here):
            yield
    finally:
        shutil.rmtree(here)
        shutil.rmtree(home)


def ask_prefect(place: Path) -> dict[str, Answer]:
    """Return Prefect's answer to each case, by its name; a new process asks it."""
    environment = {**os.environ, "HOME": str(place / "home")}
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.prefect_cases", str(place)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def _answer(case: Case, place: Path) -> Answer:
    import prefect.context
    from prefect.settings import sources

    sources._file_cache.clear()
    with placed(case, place):
        try:
            settings = prefect.context.root_settings_context().settings
        except Exception:  # noqa: BLE001 - whatever it is, importing Prefect would fail by it
            return ERROR
    return [_value(settings, path) for path in SETTINGS]


def _value(settings: Any, path: tuple[str, ...]) -> str | None:
    for name in path:
        settings = getattr(settings, name)
    value: str | None = settings.get_secret_value() if hasattr(settings, "get_secret_value") else settings
    return value


if __name__ == "__main__":
    with placed(Case(), Path(sys.argv[1])):
        importlib.import_module("prefect.context")
    print(json.dumps({name: _answer(case, Path(sys.argv[1])) for name, case in CASES.items()}))
