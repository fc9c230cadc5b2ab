"""Tests of the label log: current answers, damage, killed writers, full disks and concurrent writers."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from digits.data.labels import Answer, LabelLog, Undo
from digits.errors import CorruptArtifactError, StoreError
from tests.support import faults
from tests.support.labels import ANSWER

pytestmark = pytest.mark.usefixtures("without_sync")


def make_answer(label: str, image: str = "a", name: str | None = None) -> Answer:
    """Return an answer about an image."""
    return replace(ANSWER, id=name or f"{image}-{label}", sha256=image * 64, label=label)


def make_undo(name: str) -> Undo:
    """Return the entry that cancels an answer."""
    return Undo(f"undo {name}", ANSWER.when, name)


@pytest.fixture
def log(tmp_path: Path) -> LabelLog:
    """Return an empty log."""
    return LabelLog(tmp_path / "labels")


def label_of(log: LabelLog, image: str = "a") -> str | None:
    """Return the current label of an image."""
    answer = log.current_answer(image * 64)
    return answer.label if answer else None


def reopen(log: LabelLog) -> LabelLog:
    """Open the log again, as another process does."""
    return LabelLog(log.directory)


class TestAnswers:
    """Tests of the answers in a log."""

    def test_opening_a_missing_log_creates_nothing(self, log: LabelLog) -> None:
        """A store without reviews has no label log."""
        assert log.answers() == []
        assert log.snapshot().labels == {}
        assert not log.directory.exists()

    def test_an_answer_survives_a_round_trip(self, log: LabelLog) -> None:
        """All fields are read from the file."""
        log.append([ANSWER])
        assert reopen(log).answers() == [ANSWER]
        (line,) = log.path.read_text("ascii").splitlines()
        assert json.loads(line)["label"] == "7"

    def test_the_last_answer_about_an_image_is_current(self, log: LabelLog) -> None:
        """An image with different answers counts as changed."""
        log.append([make_answer("1"), make_answer("2", "c")])
        log.append([make_answer("3")])
        for one in (log, reopen(log)):
            assert label_of(one) == "3"
            assert one.snapshot().labels == {"a" * 64: "3", "c" * 64: "2"}
            assert one.snapshot().changed == 1

    def test_undoing_an_answer_makes_the_previous_one_current(self, log: LabelLog) -> None:
        """No line is removed from the file."""
        log.append([make_answer("1"), make_answer("2")])
        log.append([make_undo("a-2")])
        assert label_of(log) == label_of(reopen(log)) == "1"
        log.append([make_undo("a-1")])
        assert label_of(log) is None
        assert log.answers() == []
        assert log.snapshot().changed == 0
        assert len(log.path.read_bytes().splitlines()) == 4

    def test_an_earlier_answer_can_be_undone(self, log: LabelLog) -> None:
        """If two reviewers labelled an image, each can undo their own answer. Unknown answers are ignored."""
        log.append([make_answer("1"), make_answer("2"), make_undo("a-1"), make_undo("a-1"), make_undo("unknown")])
        assert label_of(log) == label_of(reopen(log)) == "2"

    def test_an_entry_that_is_sent_twice_is_written_once(self, log: LabelLog) -> None:
        """The page sends an answer again if it received no confirmation."""
        log.append([make_answer("1"), make_answer("1")])
        log.append([make_undo("a-1")])
        log.append([make_answer("1")])
        assert label_of(log) is None
        assert len(log.path.read_bytes().splitlines()) == 2

    def test_only_digits_become_labels_of_the_snapshot(self, log: LabelLog) -> None:
        """Other answers are counted."""
        log.append(
            [make_answer("not-a-digit", "c"), make_answer("skip", "d"), make_answer("skip", "e"), make_answer("0", "f")]
        )
        snapshot = log.snapshot()
        assert snapshot.labels == {"f" * 64: "0"}
        assert (snapshot.not_digits, snapshot.skipped) == (1, 2)

    def test_the_digest_depends_on_the_current_labels_only(self, tmp_path: Path) -> None:
        """The order, the time and other fields of the answers do not change it."""
        logs = [LabelLog(tmp_path / name) for name in ("one", "other")]
        logs[0].append([make_answer("1", "c"), make_answer("2", "d")])
        logs[1].append(
            [replace(make_answer("2", "d"), when="later", confidence=0.1), make_answer("9", "c"), make_answer("1", "c")]
        )
        assert logs[0].snapshot().digest == logs[1].snapshot().digest
        logs[1].append([make_undo("c-1")])
        assert logs[0].snapshot().digest != logs[1].snapshot().digest

    def test_images_are_saved_by_their_hash(self, log: LabelLog) -> None:
        """Reading a missing or damaged image returns None."""
        sha256 = hashlib.sha256(b"picture").hexdigest()
        assert log.read_image(sha256) is None
        log.save_image(sha256, b"picture")
        log.save_image(sha256, b"picture")
        assert log.read_image(sha256) == b"picture"
        (log.directory / "images" / sha256).write_bytes(b"pixture")
        assert log.read_image(sha256) is None


class TestDamage:
    """Tests of incomplete, damaged and replaced logs, and of failing disks."""

    def test_a_partial_line_of_a_killed_writer_is_ignored_and_removed(
        self, log: LabelLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Wherever the line ends, earlier answers are kept, and the next answer gets its own line."""
        log.append([make_answer("1", "c")])
        before = log.path.read_bytes()
        log.append([make_answer("2", "d")])
        line = log.path.read_bytes()[len(before) :]
        for end in range(1, len(line)):
            log.path.write_bytes(before + line[:end])
            again = reopen(log)
            assert again.snapshot().labels == {"c" * 64: "1"}
            again.append([make_answer("3", "e")])
            assert reopen(log).snapshot().labels == {"c" * 64: "1", "e" * 64: "3"}
        assert f"removed {len(line) - 1} bytes of an incomplete answer" in caplog.text

    def test_a_flipped_bit_is_an_error_that_names_the_line(self, log: LabelLog) -> None:
        """A damaged last newline is not taken for a partial line, and nothing is appended."""
        log.append([make_answer("1", "c"), make_answer("2", "d")])
        content = log.path.read_bytes()
        second = content.index(b"\n") + 1
        for position in [*range(0, len(content) * 8, 5), *range(8 * second - 8, 8 * second), *range(-8, 0)]:
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << position % 8
            log.path.write_bytes(bytes(damaged))
            line = 1 if 0 <= position // 8 < second else 2
            with pytest.raises(CorruptArtifactError, match=rf"log\.jsonl: line {line} was damaged"):
                reopen(log)
            if position < 0:
                with pytest.raises(CorruptArtifactError):
                    unread_log(log).append([make_answer("3", "e")])
                assert log.path.read_bytes() == bytes(damaged)

    def test_a_line_with_a_valid_checksum_but_other_fields_is_an_error(self, log: LabelLog) -> None:
        """Digits does not write such lines."""
        from digits.store.records import canonical_json, sealed

        log.append([ANSWER])
        with log.path.open("ab") as file:
            file.write(canonical_json(sealed({"id": "x"})) + b"\n")
        with pytest.raises(CorruptArtifactError, match="line 2 was damaged"):
            log.refresh()

    def test_a_log_that_became_shorter_is_an_error(self, log: LabelLog) -> None:
        """It may have been replaced by an older copy."""
        log.append([make_answer("1"), make_answer("2")])
        log.path.write_bytes(b"")
        with pytest.raises(CorruptArtifactError, match=r"became shorter: expected at least \d+ bytes, found 0"):
            log.append([make_answer("3")])

    def test_an_answer_is_durable_when_append_returns(self, log: LabelLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file is synced after the line was written. The directory is synced when the file is new."""
        synced: list[tuple[str, int]] = []

        def note(descriptor: int) -> None:
            synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))

        monkeypatch.setattr(os, "fsync", note)
        log.append([make_answer("1", "c")])
        assert [name for name, _ in synced] == [str(log.directory), str(log.path)]
        log.append([make_answer("2", "d")])
        assert synced[2:] == [(str(log.path), log.path.stat().st_size)]

    def test_a_full_disk_leaves_the_log_as_it_was(self, log: LabelLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """A partial line is removed, and the same answer can be appended later."""
        log.append([make_answer("1", "c")])
        before = log.path.read_bytes()

        def fail(descriptor: int, content: bytes) -> int:
            monkeypatch.undo()
            os.write(descriptor, content[:40])
            faults.no_space()
            return 0

        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(StoreError, match="could not be written to \\(No space left on device\\)"):
            log.append([make_answer("2", "d")])
        assert log.path.read_bytes() == before
        assert label_of(log, "d") is None
        log.append([make_answer("2", "d")])
        assert label_of(reopen(log), "d") == "2"

    def test_an_unreadable_log_is_an_error(self, log: LabelLog) -> None:
        """A directory is in its place."""
        log.path.mkdir(parents=True)
        with pytest.raises(StoreError, match="could not be"):
            reopen(log)

    def test_a_killed_writer_loses_no_appended_answer(self, log: LabelLog) -> None:
        """The writer is killed while it appends as fast as it can. Other processes can append to the log afterwards."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import test_labels as t\n"
            "log = t.LabelLog(Path(sys.argv[1]))\n"
            "for number in range(10**6):\n"
            "    log.append([t.replace(t.ANSWER, id=f'{number}', sha256=f'{number:064}')]); print(number, flush=True)\n"
        )
        command = [sys.executable, "-c", code, str(log.directory), str(Path(__file__).parent)]
        for _ in range(3):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                appended = [int(process.stdout.readline()) for _ in range(20)]
                process.send_signal(signal.SIGKILL)
                appended += map(int, process.stdout.read().splitlines())
            again = reopen(log)
            assert len(again.answers()) >= len(appended)
            again.append([make_answer("5", "c")])
            assert label_of(reopen(log), "c") == "5"
            log.path.unlink()


def unread_log(log: LabelLog) -> LabelLog:
    """Return a log that has read nothing yet, like one that another process opened before the damage."""
    unread = LabelLog(log.directory.with_name("nowhere"))
    unread.directory = log.directory
    return unread


def _write_many(directory: Path, name: str, count: int) -> None:
    log = LabelLog(directory)
    for number in range(count):
        log.append([make_answer(str(number % 10), "0", f"{name} {number}")])


def test_concurrent_writers_lose_no_answers(log: LabelLog) -> None:
    """Two processes append at the same time. Each answer is one line, in the order of its writer."""
    log.append([make_answer("1")])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(log.directory, name, 60)) for name in ("x", "y")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    log.refresh()
    lines = log.path.read_bytes().splitlines()
    assert len(lines) == len({json.loads(line)["id"] for line in lines}) == 121
    assert log.answers() == reopen(log).answers()
    for name in ("x", "y"):
        numbers = [json.loads(line)["id"] for line in lines if json.loads(line)["id"].startswith(name)]
        assert numbers == [f"{name} {number}" for number in range(60)]
