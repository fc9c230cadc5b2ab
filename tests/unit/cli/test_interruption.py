"""Tests of the interruption by signals, in processes of their own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from digits.cli.runtime import INTERRUPTED, MESSAGE
from digits.maintenance.processes import is_running
from digits.server.services import wait_until

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
DEFAULTS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # after nohup it is ignored
"""
START = """
import signal, subprocess, sys, time
from digits.cli import runtime
runtime.GRACE_SECONDS = 600
runtime.interrupt_on_signals()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
def wait():
    print(child.pid, flush=True)
    time.sleep(60)
"""
ENDING = """
try:
    wait()
except KeyboardInterrupt:
    child.kill()
    runtime.report_interruption()
    sys.exit(7)
"""
HANGING = """
runtime.GRACE_SECONDS = 0.5
try:
    wait()
except KeyboardInterrupt:
    time.sleep(60)
"""
REPLACED = """
signal.signal(signal.SIGTERM, lambda *_: print("replaced", flush=True))
try:
    runtime.interruptible(wait)()
except KeyboardInterrupt:
    child.kill()
    print(signal.getsignal(signal.SIGTERM).__name__, flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_interrupts_the_process_which_ends_by_itself(number: signal.Signals) -> None:
    code, _, errors, _ = _send(START + ENDING, number)
    assert (code, errors) == (7, f"digits: {MESSAGE}\n")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_process_that_hangs_after_a_signal_is_killed_with_its_children(number: signal.Signals) -> None:
    code, child, errors, _ = _send(START + HANGING, number)
    assert (code, errors) == (INTERRUPTED, f"digits: {MESSAGE}\n")
    assert wait_until(lambda: not is_running(child), 60)


def test_further_signals_change_nothing() -> None:
    code, _, errors, _ = _send(START + HANGING, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    assert (code, errors) == (INTERRUPTED, f"digits: {MESSAGE}\n")


def test_the_function_of_a_flow_is_interrupted_although_another_handler_was_set_and_that_is_restored() -> None:
    _, _, errors, output = _send(START + REPLACED, signal.SIGTERM)
    assert errors == ""
    assert output == "<lambda>\n"


def test_an_ignored_signal_stays_ignored() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    ending = "signal.raise_signal(signal.SIGHUP); child.kill(); print('not interrupted')"
    command = [sys.executable, "-c", ignoring + START + ending]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("not interrupted\n", "")


def _send(program: str, *numbers: signal.Signals) -> tuple[int, int, str, str]:
    """Send signals to a program that waits; return its exit code, its child, and what it printed after that."""
    command = [sys.executable, "-c", DEFAULTS + program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        for number in numbers:
            process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    return process.returncode, child, errors, output
