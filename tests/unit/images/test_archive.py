"""Archives: the same tables as from the unpacked folder, and safe reading of hostile archives."""

import bz2
import io
import os
import random
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from digits.errors import StoreError, UsageError
from digits.images.archive import ARCHIVE_EXTENSIONS, Archive, ArchiveListing
from digits.images.decode import DecodeError
from digits.images.folder import Entry
from digits.images.patterns import Selection
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import PredictionSummary
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import predict_folder
from digits.prediction.worker import run_worker
from tests.support import faults
from tests.support.tiny_model import MakePictures

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("in_this_process")


class Job:
    """Prediction of archives with one model."""

    def __init__(self, root: Path, model: OnnxModel) -> None:
        self.root, self.model, self.out = root, model, root / "out" / "p.csv"
        self.options: dict[str, Any] = {"shard_size": 4}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a prediction, without the source."""
        options = PredictionConfig(**self.options)
        return {"model": self.model, "out": self.out, "work": self.root / "work", "options": options}

    def plan(self, source: Path) -> Plan:
        """Return the plan of a prediction."""
        return plan_predictions(source, **self.arguments())

    def run(self, source: Path) -> PredictionSummary:
        """Predict a source and return the summary."""
        return predict_folder(source, **self.arguments())

    def lines(self, source: Path) -> list[str]:
        """Predict a source and return the lines of the table."""
        self.run(source)
        return self.out.read_text().splitlines()


@pytest.fixture
def job(tmp_path: Path, model: OnnxModel, make_pictures: MakePictures) -> Job:
    """Return a job with ten images in a folder and its subfolder."""
    make_pictures(tmp_path / "in", 7)
    make_pictures(tmp_path / "in" / "0003", 3)
    return Job(tmp_path, model)


def pack(folder: Path, archive: Path, *, shuffled: bool = True) -> Path:
    """Pack a folder into an archive, by default not in the order of the paths."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if shuffled:
        random.Random(1).shuffle(paths)  # noqa: S311
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in paths:
                packed.write(path, path.relative_to(folder))
    else:
        endings = {
            ".tar": "",
            ".gz": ":gz",
            ".tgz": ":gz",
            ".bz2": ":bz2",
            ".tbz2": ":bz2",
            ".xz": ":xz",
            ".txz": ":xz",
        }
        with tarfile.open(archive, f"w{endings[archive.suffix]}") as tar:
            for path in paths:
                tar.add(path, f"./{path.relative_to(folder)}")
    return archive


@pytest.mark.parametrize("ending", ARCHIVE_EXTENSIONS)
def test_the_table_of_an_archive_is_that_of_its_folder(job: Job, ending: str) -> None:
    """It has the same bytes; for a compressed tar file, the rows are in the order of the archive."""
    expected = job.lines(job.root / "in")
    found = job.lines(pack(job.root / "in", job.root / f"scans{ending}"))
    if ending in (".zip", ".tar"):
        assert found == expected
    else:
        assert found != expected
        assert sorted(found) == sorted(expected)
    assert sorted(path.name for path in job.root.iterdir()) == ["in", "out", f"scans{ending}", "work"]
    assert len(expected) == 11


def test_an_archive_is_recognized_by_its_extension(job: Job) -> None:
    """The extension may be in upper case. A file with another extension is a single image."""
    shutil.copy(pack(job.root / "in", job.root / "scans.zip"), job.root / "SCANS.ZIP")
    assert job.run(job.root / "SCANS.ZIP").statuses == {"ok": 10}
    shutil.copy(job.root / "scans.zip", job.root / "scans.png")
    assert job.run(job.root / "scans.png").statuses == {"not-an-image": 1}


@pytest.mark.parametrize(
    ("start", "name"), [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\7\1", "RAR"), (b"PK\3\4", "zip")]
)
def test_a_single_file_that_is_another_archive_is_an_error_that_names_it(job: Job, start: bytes, name: str) -> None:
    """The extension of an image makes it an image with an error of its own."""
    (job.root / "scans.bin").write_bytes(start)
    with pytest.raises(UsageError, match=rf"scans\.bin: found a {name} archive, expected a folder, .*; unpack it"):
        job.plan(job.root / "scans.bin")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("start", [0, 1])
def test_a_killed_run_is_resumed(job: Job, ending: str, start: int) -> None:
    """It resumes from any shard, and the table has the same bytes."""
    archive = pack(job.root / "in", job.root / f"scans{ending}")
    expected = job.lines(archive)
    job.out.unlink()
    with pytest.raises(faults.Killed):
        run_worker(job.plan(archive), start, tick=faults.kill_after(2))
    assert len(job.plan(archive).pending_shards()) == 1
    assert job.run(archive).reused in (6, 8)
    assert job.out.read_text().splitlines() == expected


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_an_archive_that_changes_is_an_error(job: Job, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes before or while it is read. The same command then starts again with the new archive."""
    archive = pack(job.root / "in", job.root / f"scans{ending}")
    plan = job.plan(archive)
    os.utime(archive, ns=(0, 0))
    with pytest.raises(StoreError, match="changed after it was listed; run the same command again"):
        run_worker(plan)
    assert job.run(archive).images == 10
    plan = job.plan(archive)
    with pytest.raises(StoreError, match="changed after it was listed"):
        run_worker(plan, tick=lambda _: os.utime(archive))
    assert job.plan(archive).digest != plan.digest
    archive.unlink()
    with pytest.raises(StoreError, match="No such file"):
        run_worker(plan)


def listed(archive: Path, **options: Any) -> tuple[list[bytes], dict[str, int]]:
    """Return the paths in a listing of an archive, and the number of skipped members by reason."""
    with Archive(archive) as opened:
        members = ArchiveListing(opened, **options)
        return [entry.path for entry in members], dict(members.skipped)


def status_of(archive: Path, path: bytes, max_bytes: int = 10_000) -> str:
    """Return the status of reading a member."""
    with Archive(archive) as opened:
        (entry,) = (
            entry for entry in ArchiveListing(opened, selection=Selection(all_files=True)) if entry.path == path
        )
        try:
            opened.read(entry, max_bytes=max_bytes)
        except DecodeError as error:
            return error.status
    return "ok"


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip file of names and contents."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, *members: tuple[bytes, bytes, bytes], mode: str = "w") -> Path:
    """Write a tar file of names, types and contents."""
    with tarfile.open(path, mode, encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for name, kind, content in members:
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.type, info.size, info.linkname = kind, len(content), "a.png"
            archive.addfile(info, io.BytesIO(content))
    return path


def test_members_of_a_tar_file_are_skipped_by_reason(tmp_path: Path) -> None:
    """Of members with the same path, the last is listed."""
    file = tarfile.REGTYPE
    archive = write_tar(
        tmp_path / "a.tar",
        (b"/absolute.png", file, b"1"),
        (b"x/../../up.png", file, b"1"),
        (b".", file, b"1"),
        (b"soft.png", tarfile.SYMTYPE, b""),
        (b"hard.png", tarfile.LNKTYPE, b""),
        (b"folder.png", tarfile.DIRTYPE, b""),
        (b"fifo.png", tarfile.FIFOTYPE, b""),
        (b"device.png", tarfile.CHRTYPE, b""),
        (b"disk.png", tarfile.BLKTYPE, b""),
        (b"notes.txt", file, b"1"),
        (b"b\xff\n.png", file, b"1"),
        (b"a.png", file, b"first"),
        (b"x//a.png", file, b"1"),
        (b"./a.png", file, b"last"),
    )
    assert listed(archive) == (
        [b"a.png", b"b\xff\n.png", b"x/a.png"],
        {"unsafe-name": 3, "link": 2, "folder": 1, "fifo": 1, "device": 2, "other-file": 1, "duplicate": 1},
    )
    with Archive(archive) as opened:
        assert opened.read(next(iter(ArchiveListing(opened))), max_bytes=10) == b"last"
    assert listed(archive, recursive=False)[1]["sub-folder"] == 1
    assert listed(archive, selection=Selection(include=["*.txt"], exclude=["x"]))[0] == [b"notes.txt"]


def test_system_files_in_an_archive_are_counted(tmp_path: Path) -> None:
    """Each member counts, also in a folder of such files."""
    names = ("a.png", "__MACOSX/._a.png", "__MACOSX/x/a.png", "x/._b.png", "x/@eaDir/a.png/T.jpg")
    for archive in (
        write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"")),
        write_tar(tmp_path / "a.tar", *((name.encode(), tarfile.REGTYPE, b"") for name in names)),
    ):
        assert listed(archive) == ([b"a.png"], {"system-file": 4})
        assert len(listed(archive, selection=Selection(system_files=True))[0]) == 5


def test_archives_in_an_archive_are_named(tmp_path: Path) -> None:
    """They are not opened. So are formats that need an extra."""
    names = ("a.png", "x/b.zip", "c.7z", "d.RAR", "e.tar.gz", "f.pdf", "g.gz")
    archive = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b""))
    counts = dict.fromkeys(("zip-archive", "7z-archive", "rar-archive", "tar-archive", "pdf-file", "other-file"), 1)
    assert listed(archive) == ([b"a.png"], counts)


def test_members_of_a_zip_file_are_skipped_by_reason(tmp_path: Path) -> None:
    """Of members with the same path, the last is listed."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("/absolute.png", "../up.png", "notes.txt", "\u00fc.png", "folder/"):
            packed.writestr(name, b"")
        for name, kind in (("link.png", stat.S_IFLNK), ("dir.png", stat.S_IFDIR), ("pipe.png", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            packed.writestr(info, b"/etc/passwd")
        packed.writestr("a.png", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("a.png", b"last")
        packed.writestr("nul-.png", b"")
    archive.write_bytes(archive.read_bytes().replace(b"nul-", b"nul\0"))
    assert listed(archive) == (
        [b"a.png", "\u00fc.png".encode()],
        {"unsafe-name": 3, "other-file": 1, "link": 1, "folder": 2, "fifo": 1, "duplicate": 1},
    )
    with Archive(archive) as opened:
        assert opened.read(next(iter(ArchiveListing(opened))), max_bytes=10) == b"last"


def test_names_that_are_not_utf_8_keep_their_bytes(tmp_path: Path) -> None:
    """The paths are the same as in a folder."""
    archive = write_zip(tmp_path / "a.zip", {"aXb.png": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"aXb", b"a\xffb"))
    assert listed(archive)[0] == [b"a\xffb.png"]
    assert status_of(archive, b"a\xffb.png") == "ok"


def test_members_are_selected_by_content(tmp_path: Path) -> None:
    """A member that cannot be read is listed, so that its row reports it."""
    members = {"a": PNG + bytes(9000), "b.png": b"text", "c": PNG}
    zipped = write_zip(tmp_path / "a.zip", members)
    content = bytearray(zipped.read_bytes())
    content[content.rindex(b"PK\1\2") + 10] = 99  # an unknown compression method for c
    zipped.write_bytes(content)
    selection = Selection(by_content=True)
    assert listed(zipped, selection=selection) == ([b"a", b"c"], {"other-file": 1})
    for mode in ("w", "w:gz"):
        tar = write_tar(tmp_path / "a.tar", *((k.encode(), tarfile.REGTYPE, v) for k, v in members.items()), mode=mode)
        assert listed(tar, selection=selection) == ([b"a", b"c"], {"other-file": 1})


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [(8, 1, "unsupported"), (10, 99, "unsupported"), (16, 255, "unreadable"), (42, 7, "unreadable")],
)
def test_a_member_that_cannot_be_unpacked_has_a_status(tmp_path: Path, field: int, value: int, status: str) -> None:
    """It is encrypted, has an unknown method, a wrong checksum or a wrong position. Other members can be read."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"one" * 50, "b.png": b"two" * 50})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + field] ^= value
    archive.write_bytes(content)
    assert status_of(archive, b"a.png") == status
    assert status_of(archive, b"b.png") == "ok"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_damage_in_a_member_is_detected(tmp_path: Path, method: int) -> None:
    """Any byte of the member may be damaged."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": random.Random(0).randbytes(40)}, method)  # noqa: S311
    intact = archive.read_bytes()
    assert status_of(archive, b"a.png") == "ok"
    for position in range(35, intact.index(b"PK\1\2")):
        content = bytearray(intact)
        content[position] ^= 0x80
        archive.write_bytes(content)
        assert status_of(archive, b"a.png") in ("unreadable", "ok")
        with Archive(archive) as opened:
            entry = next(iter(ArchiveListing(opened)))
            if status_of(archive, b"a.png") == "ok":
                assert opened.read(entry, max_bytes=100) == random.Random(0).randbytes(40)  # noqa: S311


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Both the recorded and the actual size are limited, and so is the memory."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("a.png", bytes(60_000_000))
    assert status_of(archive, b"a.png") == "too-large"
    content = bytearray(archive.read_bytes())
    position = content.index(b"PK\1\2") + 24
    content[position : position + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(content)
    with faults.memory_below(5_000_000):
        assert status_of(archive, b"a.png") == "unreadable"


def test_a_tar_file_with_a_huge_header_is_refused(tmp_path: Path) -> None:
    """`tarfile` would read the header into memory."""
    archive = tmp_path / "a.tar.bz2"
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 400_000_000
    archive.write_bytes(bz2.compress(info.tobuf() + bytes(20_000_000)))
    with faults.memory_below(5_000_000), pytest.raises(UsageError, match="it has a header of 400000000 bytes"):
        listed(archive)


def test_a_sparse_member_is_unsupported(tmp_path: Path) -> None:
    """Its content is not stored in the archive as it is."""
    archive = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert status_of(archive, b"a.png") == "unsupported"


@pytest.mark.parametrize("ending", ARCHIVE_EXTENSIONS)
def test_a_truncated_archive_is_refused(job: Job, ending: str) -> None:
    """Otherwise, rows would be missing silently."""
    archive = pack(job.root / "in", job.root / f"scans{ending}")
    whole = archive.read_bytes()
    for share in (0.0, 0.3, 0.45):
        archive.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UsageError, match="expected an intact zip or tar archive, found a damaged one"):
            job.run(archive)
    assert not job.out.exists()


def test_a_tar_file_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """`tarfile` would silently end there."""
    members = [(name, tarfile.REGTYPE, b"1") for name in (b"a.png", b"b.png", b"c.png")]
    archive = write_tar(tmp_path / "a.tar", *members)
    content = bytearray(archive.read_bytes())
    content[1024 + 150] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UsageError, match="the header at byte 1024 is damaged"):
        listed(archive)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_members_of_a_tar_file_that_lost_bytes_are_unreadable(
    job: Job, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk loses bytes without changing the modification time."""
    archive = pack(job.root / "in", job.root / f"scans{ending}")
    with Archive(archive) as opened:
        entries = list(ArchiveListing(opened))
    archive.write_bytes(archive.read_bytes()[:700])
    with Archive(archive) as opened, pytest.raises(DecodeError, match=r"ends before it|damaged") as caught:
        opened.read(entries[-1], max_bytes=10_000)
    assert caught.value.status == "unreadable"


def test_a_disk_error_is_not_reported_as_a_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error is raised."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"1"})

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(OSError, match="Input/output"):
        listed(archive)


def test_members_of_a_zip64_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large zip files have fields of more than 32 bits."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"one" * 50, "b.png": b"two" * 50})
    with Archive(archive) as opened:
        assert [opened.read(entry, max_bytes=1000) for entry in ArchiveListing(opened)] == [b"one" * 50, b"two" * 50]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """This also holds if the archive changed after it was listed."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"1"})
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert status_of(archive, b"a.png") == "ok"
    with pytest.raises(StoreError), Archive(archive, (1, 2, 3)):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_list_cannot_be_used_with_an_archive(job: Job) -> None:
    """It lists the files of a folder."""
    job.options["files_from"] = Path("list")
    with pytest.raises(UsageError, match="expected the folder of the files that list lists"):
        job.run(pack(job.root / "in", job.root / "a.zip"))


def test_the_entry_of_a_member_encodes_its_position(tmp_path: Path) -> None:
    """The encoded position is larger than an inode number usually is."""
    archive = write_zip(tmp_path / "a.zip", {"a.png": b"1"})
    with Archive(archive) as opened:
        (entry,) = ArchiveListing(opened)
    assert isinstance(entry, Entry)
    assert entry.inode > 2**32
