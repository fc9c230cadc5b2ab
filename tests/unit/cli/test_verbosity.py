"""Tests of `--quiet`, `--verbose`, `--no-progress` and `NO_COLOR`, in processes with a terminal or with pipes."""

import os
import re
import subprocess
import sys

import pytest

from digits.cli.runtime import set_verbosity
from digits.errors import UsageError
from tests.support.terminal import run_in_terminal

PROGRAM = """
import logging, sys
from digits.cli.runtime import set_verbosity
set_verbosity(**eval(sys.argv[1]))
from digits.terminal import TerminalProgress
from digits.cli.output import print_json, print_pairs, print_table
from digits.terminal import print_notice
from digits.progress import shown
with shown(TerminalProgress(), "export"):
    logging.getLogger("digits.model").debug("logged")
print_notice("noticed")
print_pairs("titled", {"a": 1})
print_table(["column"], [["cell"]])
print_json({"json": 1})
"""
RESULTS = {"titled", "cell", "json"}
COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-9][0-9;]*m")
"""Escape sequence that sets a colour of the text or of its background."""


def printed(*, quiet: bool = False, verbose: bool = False, progress: bool = True) -> set[str]:
    """Return which parts of the output of `PROGRAM` appear."""
    settings = repr({"quiet": quiet, "verbose": verbose, "progress": progress})
    done = subprocess.run([sys.executable, "-c", PROGRAM, settings], capture_output=True, text=True, check=True)
    both = done.stdout + done.stderr
    return {word for word in ("export", "noticed", "titled", "cell", "json", "logged") if word in both}


def test_everything_but_the_log_is_printed_by_default() -> None:
    assert printed() == RESULTS | {"export", "noticed"}


def test_quiet_leaves_only_json() -> None:
    assert printed(quiet=True) == {"json"}


def test_verbose_adds_the_log() -> None:
    assert printed(verbose=True) == RESULTS | {"export", "noticed", "logged"}


def test_bars_can_be_left_out() -> None:
    assert printed(progress=False) == RESULTS | {"noticed"}


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="found both --quiet and --verbose, expected at most one"):
        set_verbosity(quiet=True, verbose=True, progress=True)


HELP = "import sys; sys.argv = ['digits', 'predict', '--help']; from digits.cli.main import main; main()"
SHOW = PROGRAM.replace("eval(sys.argv[1])", "{'quiet': False, 'verbose': False, 'progress': True}")


@pytest.mark.parametrize("program", [SHOW, HELP], ids=["result", "help"])
def test_a_terminal_has_colours_unless_no_color_is_set(program: str) -> None:
    assert COLOUR.search(run_in_terminal(program, {"TERM": "xterm-256color"}))
    assert not COLOUR.search(run_in_terminal(program, {"TERM": "xterm-256color", "NO_COLOR": "1"}))


@pytest.mark.parametrize("program", [SHOW, HELP], ids=["result", "help"])
def test_what_is_not_a_terminal_gets_no_escape_sequences(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"TERM": "xterm"}, capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout + done.stderr
