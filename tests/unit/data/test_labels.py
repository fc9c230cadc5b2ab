"""The label log: appended, never rewritten, and whole whatever happens to who writes it."""

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

ANSWER = Answer(
    id="0" * 32,
    when="2026-11-25T20:00:00+00:00",
    sha256="a" * 64,
    label="7",
    prediction="1",
    confidence=0.52,
    status="uncertain",
    model_version=3,
    selection="uncertain",
    table="b" * 64,
)


def said(label: str, image: str = "a", name: str | None = None) -> Answer:
    """Give an answer on an image."""
    return replace(ANSWER, id=name or f"{image}-{label}", sha256=image * 64, label=label)


def undone(name: str) -> Undo:
    """Give the taking back of an answer."""
    return Undo(f"undo {name}", ANSWER.when, name)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.fixture
def log(tmp_path: Path) -> LabelLog:
    """An empty log."""
    return LabelLog(tmp_path / "labels")


def label_of(log: LabelLog, image: str = "a") -> str | None:
    """Give the label that counts."""
    answer = log.current_answer(image * 64)
    return answer.label if answer else None


def read_anew(log: LabelLog) -> LabelLog:
    """Read the log as the next process does."""
    return LabelLog(log.directory)


class TestAnswers:
    """What counts."""

    def test_an_empty_log_makes_nothing(self, log: LabelLog) -> None:
        """It may be looked for where nothing is ever reviewed."""
        assert log.answers() == []
        assert log.snapshot().labels == {}
        assert not log.directory.exists()

    def test_an_answer_comes_back_whole(self, log: LabelLog) -> None:
        """All that was said, from the file."""
        log.append([ANSWER])
        assert read_anew(log).answers() == [ANSWER]
        (line,) = log.path.read_text("ascii").splitlines()
        assert json.loads(line)["label"] == "7"

    def test_the_last_answer_on_an_image_counts(self, log: LabelLog) -> None:
        """And is counted as a change."""
        log.append([said("1"), said("2", "c")])
        log.append([said("3")])
        for one in (log, read_anew(log)):
            assert label_of(one) == "3"
            assert one.snapshot().labels == {"a" * 64: "3", "c" * 64: "2"}
            assert one.snapshot().changed == 1

    def test_what_was_taken_back_does_not_count(self, log: LabelLog) -> None:
        """The answer before it counts again; the lines stay."""
        log.append([said("1"), said("2")])
        log.append([undone("a-2")])
        assert label_of(log) == label_of(read_anew(log)) == "1"
        log.append([undone("a-1")])
        assert label_of(log) is None
        assert log.answers() == []
        assert log.snapshot().changed == 0
        assert len(log.path.read_bytes().splitlines()) == 4

    def test_an_earlier_answer_can_be_taken_back(self, log: LabelLog) -> None:
        """When two reviewers have labelled one image, each takes back what they said."""
        log.append([said("1"), said("2"), undone("a-1"), undone("a-1"), undone("unheard of")])
        assert label_of(log) == label_of(read_anew(log)) == "2"

    def test_what_is_sent_twice_counts_once(self, log: LabelLog) -> None:
        """The page tries again when it did not hear that an answer was saved."""
        log.append([said("1"), said("1")])
        log.append([undone("a-1")])
        log.append([said("1")])
        assert label_of(log) is None
        assert len(log.path.read_bytes().splitlines()) == 2

    def test_only_digits_are_labels_to_train_on(self, log: LabelLog) -> None:
        """The others are counted."""
        log.append([said("not-a-digit", "c"), said("skip", "d"), said("skip", "e"), said("0", "f")])
        labelled = log.snapshot()
        assert labelled.labels == {"f" * 64: "0"}
        assert (labelled.not_digits, labelled.skipped) == (1, 2)

    def test_the_order_of_the_answers_does_not_change_the_digest(self, tmp_path: Path) -> None:
        """Nor when and of what they were given."""
        logs = [LabelLog(tmp_path / name) for name in ("one", "other")]
        logs[0].append([said("1", "c"), said("2", "d")])
        logs[1].append([replace(said("2", "d"), when="later", confidence=0.1), said("9", "c"), said("1", "c")])
        assert logs[0].snapshot().digest == logs[1].snapshot().digest
        logs[1].append([undone("c-1")])
        assert logs[0].snapshot().digest != logs[1].snapshot().digest

    def test_images_are_kept_by_their_hash(self, log: LabelLog) -> None:
        """A damaged one is none."""
        sha256 = hashlib.sha256(b"picture").hexdigest()
        assert log.read_image(sha256) is None
        log.save_image(sha256, b"picture")
        log.save_image(sha256, b"picture")
        assert log.read_image(sha256) == b"picture"
        (log.directory / "images" / sha256).write_bytes(b"pixture")
        assert log.read_image(sha256) is None


class TestDamage:
    """What kills, disks and people do to the file."""

    def test_a_line_that_a_kill_has_cut_is_passed_over_and_cut_off(
        self, log: LabelLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Wherever it was cut: the answers before are there, and the next one is a line of its own."""
        log.append([said("1", "c")])
        before = log.path.read_bytes()
        log.append([said("2", "d")])
        line = log.path.read_bytes()[len(before) :]
        for end in range(1, len(line)):
            log.path.write_bytes(before + line[:end])
            again = read_anew(log)
            assert again.snapshot().labels == {"c" * 64: "1"}
            again.append([said("3", "e")])
            assert read_anew(log).snapshot().labels == {"c" * 64: "1", "e" * 64: "3"}
        assert f"ended in {len(line) - 1} bytes of an answer that was never finished" in caplog.text

    def test_flipped_bits_are_found_and_their_line_named(self, log: LabelLog) -> None:
        """Also one in the last newline, without which the line looks like a torn one; nothing is appended then."""
        log.append([said("1", "c"), said("2", "d")])
        content = log.path.read_bytes()
        second = content.index(b"\n") + 1
        for position in [*range(0, len(content) * 8, 5), *range(8 * second - 8, 8 * second), *range(-8, 0)]:
            damaged = bytearray(content)
            damaged[position // 8] ^= 1 << position % 8
            log.path.write_bytes(bytes(damaged))
            line = 1 if 0 <= position // 8 < second else 2
            with pytest.raises(CorruptArtifactError, match=rf"log\.jsonl: line {line} was damaged"):
                read_anew(log)
            if position < 0:
                with pytest.raises(CorruptArtifactError):
                    log_at_start(log).append([said("3", "e")])
                assert log.path.read_bytes() == bytes(damaged)

    def test_a_sealed_line_of_something_else_is_damage(self, log: LabelLog) -> None:
        """It is not ours."""
        from digits.store.records import canonical_json, sealed

        log.append([ANSWER])
        with log.path.open("ab") as file:
            file.write(canonical_json(sealed({"id": "x"})) + b"\n")
        with pytest.raises(CorruptArtifactError, match="line 2 was damaged"):
            log.refresh()

    def test_a_log_that_became_shorter_is_an_error(self, log: LabelLog) -> None:
        """Somebody has put an older one in its place."""
        log.append([said("1"), said("2")])
        log.path.write_bytes(b"")
        with pytest.raises(CorruptArtifactError, match="shorter than it was: 0 bytes"):
            log.append([said("3")])

    def test_an_answer_is_on_the_disk_when_it_is_acknowledged(
        self, log: LabelLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is synced after the line is in it, and the directory when the file is new."""
        synced: list[tuple[str, int]] = []

        def note(descriptor: int) -> None:
            synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))

        monkeypatch.setattr(os, "fsync", note)
        log.append([said("1", "c")])
        assert [name for name, _ in synced] == [str(log.directory), str(log.path)]
        log.append([said("2", "d")])
        assert synced[2:] == [(str(log.path), log.path.stat().st_size)]

    def test_a_full_disk_leaves_the_log_as_it_was(self, log: LabelLog, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half of a line is taken off again, and the same answer can be given later."""
        log.append([said("1", "c")])
        before = log.path.read_bytes()

        def fail(descriptor: int, content: bytes) -> int:
            monkeypatch.undo()
            os.write(descriptor, content[:40])
            faults.no_space()
            return 0

        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(StoreError, match="could not be written to \\(No space left on device\\)"):
            log.append([said("2", "d")])
        assert log.path.read_bytes() == before
        assert label_of(log, "d") is None
        log.append([said("2", "d")])
        assert label_of(read_anew(log), "d") == "2"

    def test_an_unreadable_log_is_an_error(self, log: LabelLog) -> None:
        """A directory in its place, for one."""
        log.path.mkdir(parents=True)
        with pytest.raises(StoreError, match="could not be"):
            read_anew(log)

    def test_a_killed_writer_loses_nothing_that_was_acknowledged(self, log: LabelLog) -> None:
        """SIGKILL while it writes as fast as it can: what it told of is there, and the log can be gone on with."""
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
                told = [int(process.stdout.readline()) for _ in range(20)]
                process.send_signal(signal.SIGKILL)
                told += map(int, process.stdout.read().splitlines())
            again = read_anew(log)
            assert len(again.answers()) >= len(told)
            again.append([said("5", "c")])
            assert label_of(read_anew(log), "c") == "5"
            log.path.unlink()


def log_at_start(log: LabelLog) -> LabelLog:
    """Give a log that has read nothing yet, as another process has that opened it before it was damaged."""
    fresh = LabelLog(log.directory.with_name("nowhere"))
    fresh.directory = log.directory
    return fresh


def _write_many(directory: Path, name: str, count: int) -> None:
    log = LabelLog(directory)
    for number in range(count):
        log.append([said(str(number % 10), "0", f"{name} {number}")])


def test_two_reviewers_lose_nothing_of_each_other(log: LabelLog) -> None:
    """Each answer is a line, whoever gave it; both see all of them."""
    log.append([said("1")])
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
    assert log.answers() == read_anew(log).answers()
    for name in ("x", "y"):
        numbers = [json.loads(line)["id"] for line in lines if json.loads(line)["id"].startswith(name)]
        assert numbers == [f"{name} {number}" for number in range(60)]
