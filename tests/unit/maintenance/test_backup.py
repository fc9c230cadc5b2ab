"""Backup and restore: the same champion, predictions, labels and ledgers under another path, or nothing at all."""

import errno
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from digits.cli.backup import find_database
from digits.data.labels import Answer, LabelLog
from digits.errors import CorruptArtifactError, DigitsError, StoreError, UsageError
from digits.maintenance import archives, integrity, locks
from digits.maintenance import restore as restore_module
from digits.maintenance.archives import CONTENTS, ArchiveWriter, Member
from digits.maintenance.backup import back_up, check_archive
from digits.maintenance.restore import MAX_BYTES, Root, is_allowed, moved, restore
from digits.outputs.summary import summary_path
from digits.prediction import service
from digits.prediction.baselines import record_path
from digits.prediction.config import PredictionConfig
from digits.store.artifacts import Store
from digits.store.records import read_record, sealed, write_record
from digits.store.registry import Registry
from tests.support import faults
from tests.support.networks import make_store, small_network, tiny_network
from tests.support.tiny_model import MakePictures

pytestmark = pytest.mark.usefixtures("in_this_process")
LONG_AGO = 1_700_000_000
IMAGES = 12


def predict(store: Store, source: Path, **options: object) -> Path:
    """Predict a folder into its default table, and return the path of the table."""
    config = PredictionConfig.model_validate({"processes": 1, **options})
    return service.predict_folder(store, source, options=config).out


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip syncing to the disk."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact root with two versions, a label and a study."""
    place = tmp_path_factory.mktemp("original")
    root = make_store(place / "root", small_network(), name="small")
    make_store(root, tiny_network(), name="tiny")
    store = Store(root)
    content = b"an image"
    name = hashlib.sha256(content).hexdigest()
    log = LabelLog(store.labels)
    log.save_image(name, content)
    log.append([Answer("1", "2026-11-28", name, "7", "1", 0.5, "ok", 1, "sample", "table")])
    write_record(store.studies / "abc" / "trial-000.json", {"number": 0})
    (store.studies / "abc" / "best.toml").write_text("x = 1\n")
    return root


@pytest.fixture
def store(original: Path, tmp_path: Path, make_pictures: MakePictures) -> Store:
    """Return a copy of the artifact root, with an inbox and a table of it."""
    store = Store(Path(shutil.copytree(original, tmp_path / "old root")))
    make_pictures(store.inbox, IMAGES)
    for path in store.inbox.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    predict(store, store.inbox, incremental=True)
    return store


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Path:
    """Return a backup with the tables."""
    return back_up(store, tmp_path / "backup.tar.zst", tables=True).path


def test_a_root_that_is_restored_under_another_path_works_like_the_first(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    """Champion, rollback, predictions, labels, and the ledger and the table of its inbox."""
    found = restore(archive, Store(tmp_path / "new" / "root"))
    new = Store(found.root)
    assert found.about["champion"] == 2
    assert integrity.verify(new).damaged == []
    assert Registry(new).promotions() == Registry(store).promotions()
    assert LabelLog(new.labels).snapshot().labels == LabelLog(store.labels).snapshot().labels
    assert (new.studies / "abc" / "best.toml").read_text() == "x = 1\n"
    shutil.copytree(store.inbox, new.inbox, copy_function=shutil.copy2)
    table = service.default_table(new, new.inbox)
    before = table.read_bytes()
    plan = service.plan_predictions(
        new, new.inbox, model="champion", out=None, options=PredictionConfig(incremental=True)
    )
    assert (plan.images, plan.rows, plan.out) == (0, IMAGES, table)
    assert before == service.default_table(store, store.inbox).read_bytes()
    assert read_record(summary_path(table))["source"] == str(new.inbox)
    assert predict(new, store.inbox).read_bytes() == predict(store, store.inbox).read_bytes()
    assert Registry(new).roll_back().version == 1


def test_a_root_that_is_restored_under_its_path_has_the_same_files(store: Store, archive: Path) -> None:
    """Byte for byte, with the times of their last change; what a backup leaves out is missing."""
    before = files_of(store.root)
    times = {name: (store.root / name).stat().st_mtime_ns // 10**9 for name in before}
    shutil.rmtree(store.root)
    restore(archive, store)
    after = files_of(store.root)
    assert after == {name: content for name, content in before.items() if not name.startswith("inbox/")}
    assert {name: (store.root / name).stat().st_mtime_ns // 10**9 for name in after} == {
        name: times[name] for name in after
    }


def files_of(root: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory, without those of its locks and temporary directory."""
    files = (path for path in root.rglob("*") if path.is_file())
    named = {path.relative_to(root).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(("locks/", "tmp/"))}


def test_tables_are_in_a_backup_only_if_asked_for(store: Store, tmp_path: Path) -> None:
    """The ledgers are always in it."""
    found = back_up(store, tmp_path / "x.tar.zst")
    assert (found.tables, found.ledgers, found.labelled_images, found.versions) == (0, 1, 1, 2)
    assert found.path.stat().st_mode & 0o777 == 0o600
    assert not [name for name in check_archive(found.path)["files"] if name.startswith("predictions/")]
    with pytest.raises(UsageError, match="--force"):
        back_up(store, found.path)
    assert back_up(store, found.path, tables=True, replace=True).tables == 1
    with pytest.raises(UsageError, match="ends in"):
        back_up(store, tmp_path / "x.zip")


def test_a_summary_names_the_new_place_of_the_differences(store: Store, archive: Path, tmp_path: Path) -> None:
    """The file with the differences between two versions is restored beside its table."""
    table = service.default_table(store, store.inbox)
    summary = read_record(summary_path(table))
    differences = table.with_name("predictions.shadow.csv")
    differences.write_text("path\n")
    write_record(record_path(table), {"baseline": 1})
    write_record(summary_path(table), {**summary, "shadow": {"version": 1, "differing": 0, "table": str(differences)}})
    new = Store(tmp_path / "new")
    restore(back_up(store, archive, tables=True, replace=True).path, new)
    place = service.default_table(new, new.inbox).with_name(differences.name)
    assert read_record(summary_path(place.with_name("predictions.csv")))["shadow"]["table"] == str(place)
    assert place.read_text() == "path\n"
    assert read_record(record_path(place.with_name("predictions.csv"))) == {"baseline": 1}


def test_only_paths_below_the_artifact_root_are_changed() -> None:
    """Default tables have another name under another root, because the name depends on the path of the folder."""
    old, new, other = Root(Path("/old"), Path("/disk/old")), Root(Path("/new/root"), Path("/new/root")), Path("/scans")
    inbox, moved_inbox = (service.default_table(Store(root.path), root.path / "inbox") for root in (old, new))
    for place in (old.path, old.real):
        assert moved(place / "inbox", inbox, old, new) == (new.path / "inbox", moved_inbox)
    assert moved(new.path / "inbox", moved_inbox, new, old) == (old.real / "inbox", inbox)
    assert moved(other, other / "x.csv", old, new) == (other, other / "x.csv")
    assert moved(other, old.path / "predictions" / "x.csv", old, new) == (other, new.path / "predictions" / "x.csv")
    table = service.default_table(Store(old.path), other)
    assert moved(other, table, old, new)[1] == service.default_table(Store(new.path), other)


def test_a_root_behind_a_link_is_restored_behind_another(store: Store, tmp_path: Path) -> None:
    """Sources are recorded without links, tables with them."""
    link, other = tmp_path / "link", tmp_path / "other link"
    link.symlink_to(store.root)
    (tmp_path / "disk").mkdir()
    other.symlink_to(tmp_path / "disk")
    table = predict(Store(link), link / "inbox", incremental=True)
    new = Store(other)
    restore(back_up(Store(link), tmp_path / "x.tar.zst", tables=True).path, new)
    shutil.copytree(store.inbox, new.inbox, copy_function=shutil.copy2)
    options = PredictionConfig(incremental=True)
    plan = service.plan_predictions(new, new.inbox, model="champion", out=None, options=options)
    assert (plan.images, plan.out.read_bytes()) == (0, table.read_bytes())


def test_a_root_without_anything_to_back_up_is_an_error(tmp_path: Path) -> None:
    """As after a mistyped path, which must not be created."""
    with pytest.raises(UsageError, match="neither model versions nor labels"):
        back_up(Store(tmp_path / "mistyped"), tmp_path / "x.tar.zst")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_of_an_earlier_version_is_restored_as_it_is(store: Store, tmp_path: Path) -> None:
    """It does not name its source; the next run does not use it, because the code has changed since."""
    (commit,) = store.plans.glob("ledgers/*/*.json")
    write_record(commit, {name: value for name, value in read_record(commit).items() if name not in ("source", "out")})
    new = Store(tmp_path / "new")
    restore(back_up(store, tmp_path / "x.tar.zst").path, new)
    assert (new.root / commit.relative_to(store.root)).read_bytes() == commit.read_bytes()


def test_damaged_ledgers_trials_and_drift_records_are_left_out(store: Store, tmp_path: Path) -> None:
    """Runs make them again, so they prevent neither a backup nor a restore."""
    (commit,) = store.plans.glob("ledgers/*/*.json")
    commit.write_text("{}")
    (store.studies / "abc" / "trial-000.json").write_text("{}")
    record_path(service.default_table(store, store.inbox)).write_text("{}")
    names = check_archive(back_up(store, tmp_path / "x.tar.zst", tables=True).path)["files"]
    assert not [name for name in names if "ledgers" in name or "trial" in name or "drift" in name]
    assert "studies/abc/best.toml" in names
    restore(tmp_path / "x.tar.zst", Store(tmp_path / "new"))


@pytest.mark.parametrize(
    "pattern",
    ["onnx/*/model.onnx", "registry/*/000001.json", "labels/images/*", "labels/log.jsonl", "onnx/*/manifest.json"],
)
def test_a_damaged_file_prevents_a_backup(store: Store, tmp_path: Path, pattern: str) -> None:
    """Otherwise it would replace the intact file in a later backup."""
    path = min(store.root.glob(pattern))
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(CorruptArtifactError):
        back_up(store, tmp_path / "x.tar.zst")
    assert list(tmp_path.glob("*.tar.zst*")) == []
    assert list(store.temporary.iterdir()) == []


def test_a_missing_artifact_of_a_version_prevents_a_backup(store: Store, tmp_path: Path) -> None:
    """The message names the command that says what to do."""
    shutil.rmtree(next(store.root.glob("onnx/*")))
    with pytest.raises(CorruptArtifactError, match="digits verify"):
        back_up(store, tmp_path / "x.tar.zst")


def test_a_file_that_becomes_shorter_prevents_a_backup() -> None:
    with pytest.raises(StoreError, match="became shorter"):
        ArchiveWriter(io.BytesIO()).add(Member("x", 10, 0), io.BytesIO(b"short"))


def test_labels_and_versions_that_are_added_meanwhile_do_not_tear_a_backup(store: Store, tmp_path: Path) -> None:
    """A thread appends answers and promotes versions; each backup has a champion among its versions."""
    stop = threading.Event()

    def work() -> None:
        for number in range(1, 10_000):
            if stop.is_set():
                return
            name = hashlib.sha256(b"%d" % number).hexdigest()
            log = LabelLog(store.labels)
            log.save_image(name, b"%d" % number)
            log.append([Answer(f"x{number}", "", name, "1", "1", 0.5, "ok", 1, "sample", "")])
            make_store(store.root, tiny_network() + b"\0" * number, name=f"n{number}")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(3):
            new = Store(tmp_path / f"new{number}")
            found = restore(back_up(store, tmp_path / f"{number}.tar.zst").path, new)
            assert Registry(new).resolve("champion").number == found.about["champion"]
            labels = LabelLog(new.labels).snapshot().labels
            assert labels.keys() <= {path.name for path in (new.labels / "images").iterdir()}
    finally:
        stop.set()
        thread.join()


def test_a_lock_that_is_not_released_is_an_error(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the lock."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0)
    with store.lock("registry"), pytest.raises(StoreError, match="locks/registry: another process"):
        back_up(store, tmp_path / "x.tar.zst")


def tear(path: Path, change: Callable[[bytearray], object]) -> Path:
    """Write a changed copy of the unpacked archive, compressed again, and return its path."""
    content = bytearray(pa.input_stream(str(path), compression="zstd").read())
    change(content)
    torn = path.with_name("torn.tar.zst")
    with pa.CompressedOutputStream(str(torn), "zstd") as stream:
        stream.write(bytes(content))
    return torn


def refuse(path: Path, root: Path) -> str:
    """Check that a damaged archive is refused, and that nothing of it is visible; return the message."""
    with pytest.raises(CorruptArtifactError) as caught:
        restore(path, Store(root))
    assert files_of(root) == {}
    assert list((root / "tmp").iterdir()) == []
    return str(caught.value)


def test_a_damaged_member_is_found_before_anything_is_restored(archive: Path, tmp_path: Path) -> None:
    """In the content and in the header of each member; the archive is compressed again, so that it can be unpacked."""
    with tarfile.open(fileobj=io.BytesIO(pa.input_stream(str(archive), compression="zstd").read())) as opened:
        members = opened.getmembers()
    assert len(members) > 15
    for member in members:
        for at in (member.offset_data, member.offset_data + member.size - 1, member.offset + 3, member.offset + 130):
            torn = tear(archive, lambda content, at=at: content.__setitem__(at, content[at] ^ 1))
            assert "not an intact backup" in refuse(torn, tmp_path / "new")
            with pytest.raises(CorruptArtifactError):
                check_archive(torn)


def test_a_truncated_archive_is_found(archive: Path, tmp_path: Path) -> None:
    """At any length, also if it is compressed again after the cut."""
    content = archive.read_bytes()
    torn = archive.with_name("torn.tar.zst")
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        torn.write_bytes(content[:length])
        refuse(torn, tmp_path / "new")
    size = len(pa.input_stream(str(archive), compression="zstd").read())
    for length in (0, 512, size // 2, size - 1024):
        refuse(tear(archive, lambda whole, length=length: whole.__delitem__(slice(length, None))), tmp_path / "new")


class Hostile:
    """Archive made of any headers, with a correct list of the files."""

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._files = path, io.BytesIO(), {}

    def add(self, name: str, content: bytes = b"", **about: object) -> "Hostile":
        """Add a member."""
        header = tarfile.TarInfo(name)
        header.size = len(content)
        for key, value in about.items():
            setattr(header, key, value)
        self._file.write(header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        self._files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        return self

    def write(self, **about: object) -> Path:
        """Write the archive."""
        files = self._files.copy()
        record = sealed({"format": 1, "root": "/old", "real_root": "/old", "files": files, **about})
        self.add(CONTENTS, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
        with pa.CompressedOutputStream(str(self.path), "zstd") as stream:
            stream.write(self._file.getvalue() + bytes(1024))
        return self.path


@pytest.mark.parametrize(
    ("name", "about", "found"),
    [
        ("/etc/passwd", {}, "is no file of a backup"),
        ("../x", {}, "is no file of a backup"),
        ("predictions/../../x", {}, "is no file of a backup"),
        ("predictions//x", {}, "is no file of a backup"),
        ("system/server.lock", {}, "is no file of a backup"),
        ("README.md", {}, "is no file of a backup"),
        ("predictions/x", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, "is not a regular file"),
        ("predictions/x", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "is not a regular file"),
        ("predictions/x", {"type": tarfile.DIRTYPE}, "is not a regular file"),
        ("predictions/x", {"type": tarfile.CHRTYPE}, "is not a regular file"),
        ("predictions/x", {"type": tarfile.FIFOTYPE}, "is not a regular file"),
        ("predictions/x", {"type": tarfile.XHDTYPE, "size": 2**50}, "is not a regular file"),
        ("predictions/x", {"type": tarfile.GNUTYPE_LONGNAME, "size": 2**50}, "name of"),
        ("predictions/x", {"size": 2**50}, "raise --max-gb"),
        ("predictions/x", {"size": -1}, "negative size"),
        (CONTENTS, {"size": 2**40}, "list of files has"),
    ],
)
def test_foreign_members_are_refused(tmp_path: Path, name: str, about: dict[str, object], found: str) -> None:
    """Whatever the list of the files says, nothing is written outside of the staging directory."""
    path = Hostile(tmp_path / "x.tar.zst").add(name, **about).write()
    assert found in refuse(path, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "x.tar.zst"]


def test_members_that_occur_twice_or_follow_the_list_are_refused(tmp_path: Path) -> None:
    """So that the checked file is the one that is restored."""
    made = Hostile(tmp_path / "x.tar.zst")
    assert "File exists" in str(fails(StoreError, made.add("predictions/x").add("predictions/x").write(), tmp_path))
    late = Hostile(tmp_path / "x.tar.zst").add(
        CONTENTS, json.dumps(sealed({"format": 1}), sort_keys=True, separators=(",", ":")).encode()
    )
    assert "follows the list" in refuse(late.add("predictions/x").write(), tmp_path / "new")


def fails(kind: type[DigitsError], path: Path, place: Path) -> DigitsError:
    """Return the error of a restore that fails."""
    with pytest.raises(kind) as caught:
        restore(path, Store(place / "new"))
    return caught.value


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    made = Hostile(tmp_path / "x.tar.zst")
    for number in range(3):
        made.add(f"predictions/{number}")
    assert "more than 2 files" in refuse(made.write(), tmp_path / "new")


def test_a_backup_of_another_format_is_refused(tmp_path: Path) -> None:
    """A later version of Digits may have written it."""
    error = fails(UsageError, Hostile(tmp_path / "x.tar.zst").write(format=2), tmp_path)
    assert "expected a backup of format 1, found 2" in str(error)
    assert "could not be read" in str(fails(UsageError, tmp_path / "missing.tar.zst", tmp_path))


def test_an_archive_without_the_values_of_a_backup_is_refused(tmp_path: Path) -> None:
    """Its hashes match, but its content makes no sense."""
    assert "damaged" in refuse(
        Hostile(tmp_path / "x.tar.zst").add("registry/versions/000001.json", b"{}").write(), tmp_path / "new"
    )
    assert "root" in refuse(Hostile(tmp_path / "x.tar.zst").write(root=None), tmp_path / "new")


def test_long_names_are_restored(tmp_path: Path) -> None:
    """Longer than a header of tar has room for, and not UTF-8."""
    name = "predictions/" + "n" * 200 + "/\udcff.csv"
    made = io.BytesIO()
    writer = ArchiveWriter(made)
    writer.add(Member(name, 3, LONG_AGO), io.BytesIO(b"abc"))
    writer.finish({"format": 1, "root": "/old", "real_root": "/old"})
    path = tmp_path / "x.tar.zst"
    path.write_bytes(made.getvalue())
    restore(path, Store(tmp_path / "new"))
    assert (tmp_path / "new" / name).read_bytes() == b"abc"
    assert is_allowed(name)


def test_tables_on_another_file_system_are_copied(
    store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a volume of its own in a container, to and from which there are no links."""

    def refuse_link(source: Path, _: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))

    new = Store(tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse_link)
        back_up(store, archive, tables=True, replace=True)
        restore(archive, new)
    table, before = (service.default_table(one, one.inbox) for one in (new, store))
    assert table.read_bytes() == before.read_bytes()
    assert int(table.stat().st_mtime) == int(before.stat().st_mtime)


def test_a_time_that_no_file_can_have_is_replaced(tmp_path: Path) -> None:
    """The header of a hostile archive may have any number."""
    made = Hostile(tmp_path / "x.tar.zst").add("predictions/x", mtime=2**60).add("predictions/y", mtime=-(2**60))
    restore(made.write(), Store(tmp_path / "new"))
    assert 0 < (tmp_path / "new" / "predictions" / "x").stat().st_mtime <= time.time()
    assert (tmp_path / "new" / "predictions" / "y").stat().st_mtime == 0


def test_a_full_disk_is_an_error(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file is written that does not fit."""
    monkeypatch.setattr(restore_module, "RESERVE_BYTES", 2**60)
    assert "only 0 are free" in str(fails(StoreError, archive, tmp_path))
    assert files_of(tmp_path / "new") == {}


def test_files_of_the_root_are_never_overwritten(store: Store, archive: Path, tmp_path: Path) -> None:
    """Equal ones are kept, others are an error; files that the backup does not have are left alone."""
    new = Store(tmp_path / "new")
    restore(archive, new)
    assert "has model versions" in str(fails(StoreError, archive, tmp_path))
    shutil.rmtree(new.registry)
    (new.root / "README.md").write_text("mine")
    (new.labels / "log.jsonl").write_text("mine")
    before = files_of(new.root)
    assert "labels/log.jsonl: it exists, and differs" in str(fails(StoreError, archive, tmp_path))
    assert files_of(new.root) == before
    (new.labels / "log.jsonl").unlink()
    restore(archive, new)
    assert files_of(new.root).keys() - files_of(store.root).keys() >= {"README.md"}
    model = next(new.root.glob("onnx/*/model.onnx"))
    model.write_bytes(b"damaged")
    shutil.rmtree(new.registry)
    assert "differs" in str(fails(StoreError, archive, tmp_path))


def test_a_restore_that_is_killed_between_any_two_steps_is_completed_by_the_next(archive: Path, tmp_path: Path) -> None:
    """Until it is complete, the root has no model version, and nothing in it is damaged."""
    restore(archive, Store(tmp_path / "whole"))
    whole, at = normalized(tmp_path / "whole"), 0
    while True:
        at += 1
        new = Store(tmp_path / f"new{at}")

        def work(new: Store = new, at: int = at) -> None:
            with faults.fault(new.root, at, faults.die):
                restore(archive, new)

        if faults.wait(faults.in_child(work)) == 0:
            break
        if not new.registry.exists():
            assert integrity.verify(new).damaged == []
            restore(archive, new)
        assert {name.replace(f"new{at}", "whole") for name in normalized(new.root)} == whole
        shutil.rmtree(new.root)
    assert at > 80


def normalized(root: Path) -> set[str]:
    """Return the names of the files below a root, without the digests that depend on its path."""
    return {Path(name).name for name in files_of(root)}


def test_a_backup_that_is_killed_leaves_the_former_one(store: Store, archive: Path) -> None:
    """At any step; a full disk does so, too."""
    before, at = archive.read_bytes(), 0
    LabelLog(store.labels).append([Answer("2", "", "0" * 64, "skip", "1", 0.5, "ok", 1, "sample", "")])
    while True:
        at += 1

        def work(at: int = at) -> None:
            with faults.fault(store.root.parent, at, faults.die):
                back_up(store, archive, tables=True, replace=True)

        if faults.wait(faults.in_child(work)) == 0:
            break
        if archive.read_bytes() != before:
            check_archive(archive)
        with faults.fault(store.root.parent, at, faults.no_space), suppress(DigitsError):
            back_up(store, archive, tables=True, replace=True)
        check_archive(archive)
        archive.write_bytes(before)
    assert at > 30
    assert check_archive(archive)["files"] != {}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database as that of a Prefect server, in WAL mode."""
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE run (number INTEGER, pair INTEGER)")
        connection.commit()
    return path


def test_the_database_is_copied_while_it_is_written(store: Store, database: Path, tmp_path: Path) -> None:
    """Each copy has whole transactions only; it can be left out of a restore, and only its owner can read it."""
    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(database)) as connection:
            for number in range(10**9):
                if stop.is_set():
                    return
                connection.execute("INSERT INTO run VALUES (?, 1)", (number,))
                connection.execute("INSERT INTO run VALUES (?, 2)", (number,))
                connection.commit()
                started.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert started.wait(120)
        for number in range(3):
            new = tmp_path / f"new{number}"
            restore(back_up(store, tmp_path / f"{number}.tar.zst", database=database).path, Store(new))
            path = new / "system" / "prefect" / "prefect.db"
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parents[1].stat().st_mode & 0o777 == 0o700
            with closing(sqlite3.connect(path)) as connection:
                first, second = (
                    connection.execute("SELECT count(*) FROM run WHERE pair = ?", (pair,)).fetchone() for pair in (1, 2)
                )
                assert first == second != (0,)
        restore(tmp_path / "2.tar.zst", Store(tmp_path / "without"), database=False)
        assert not (tmp_path / "without" / "system").exists()
    finally:
        stop.set()
        thread.join()


def test_a_damaged_database_prevents_a_backup(store: Store, database: Path, tmp_path: Path) -> None:
    """The message says how to leave it out."""
    content = database.read_bytes()
    for damaged in (b"no database", content[:4096] + bytes(len(content) - 4096)):
        database.write_bytes(damaged)
        with pytest.raises(StoreError, match="--no-database"):
            back_up(store, tmp_path / "x.tar.zst", database=database)


def test_only_the_database_of_our_own_server_is_backed_up(tmp_path: Path) -> None:
    """The sentence says why there is none, and what to do."""
    path = tmp_path / "prefect" / "prefect.db"
    assert find_database(tmp_path, {}, wanted=True)[0] is None
    path.parent.mkdir()
    path.touch()
    assert find_database(tmp_path, {}, wanted=True) == (path, "included")
    assert find_database(tmp_path, {}, wanted=False)[0] is None
    url = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://user:secret@host/x"}
    found, sentence = find_database(tmp_path, url, wanted=True)
    assert found is None
    assert "pg_dump" in sentence
    assert "secret" not in sentence


def test_the_default_limit_is_that_of_the_command() -> None:
    assert MAX_BYTES == 100 * 10**9
