"""Tests of the progress bars, in a process whose standard error is a pseudo-terminal or a pipe."""

import re
import subprocess
import sys

from digits.terminal import describe_state
from tests.support.terminal import run_in_terminal

PROGRAM = """
import sys, threading, time
from digits import terminal
from digits.progress import shown
two_lines, real = threading.Semaphore(0), terminal.print_notice
terminal.print_notice = lambda text: (real(text), two_lines.release())
with shown(terminal.TerminalProgress(log_seconds=0.2), "export", 3) as bar:
    bar.advance(note="drawing digits")
    time.sleep(0.7) if sys.stderr.isatty() else (two_lines.acquire(), two_lines.acquire())
    bar.advance(note="fitting heads")
"""


def test_a_log_gets_lines_while_a_step_takes_long_and_one_at_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True, check=True, timeout=120)
    *before, last = done.stderr.splitlines()
    assert len(before) >= 2
    assert all(re.fullmatch(r"export: 1 of 3 after \d+ s, drawing digits", line) for line in before[:2])
    assert "export" in last
    assert "3/3" in last


def test_a_terminal_shows_the_name_and_the_state_of_a_step() -> None:
    shown = run_in_terminal(PROGRAM)
    assert "export" in shown
    assert "drawing digits" in shown
    assert "3/3" in shown
    assert "after" not in shown


def test_an_error_leaves_the_bar_at_the_step_that_failed() -> None:
    failing = PROGRAM + "    raise SystemExit(5)\n"
    done = subprocess.run([sys.executable, "-c", failing], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5
    assert "2/3" in done.stderr.splitlines()[-1]


def test_a_line_of_a_log_names_the_step_and_its_state() -> None:
    assert describe_state("images", 1_200, 5_000, "", 29.6) == "images: 1,200 of 5,000 after 30 s"
