"""Folder: listing in byte order, paths as text, and reading of unchanged files."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digits.errors import UsageError
from digits.images.decode import DecodeError
from digits.images.folder import (
    DENIED_SIZE,
    DirectoryReader,
    Entry,
    Listing,
    entry_for,
    escape_path,
    read_entry,
    resolve_source,
    unescape_path,
    update_escape,
)
from digits.images.patterns import Selection
from digits.status import FORMULA_STARTS
from tests.support.faults import without_root

HOSTILE = [
    b"a\nb.png",
    b"a\rb.png",
    b'quote".png',
    b"comma,.png",
    b"=1+1.png",
    b"+x.png",
    b"-x.png",
    b"@x.png",
    b"\xff\xfe.png",
    "ü\u0085.png".encode(),
    b"%41.png",
    b" space .png",
    b".hidden.png",
    b"tab\t.PNG",
    b"-" * 250 + b".png",
]


def make(root: Path, *names: bytes) -> None:
    """Create files whose content is their name."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)


def listed(root: Path, **options: object) -> list[bytes]:
    """Return the paths in a listing of a folder."""
    return [entry.path for entry in Listing(root, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"a/b.png", "a/b.png"),
        ("Ziffer über.png".encode(), "Ziffer über.png"),
        (b"100%.png", "100%25.png"),
        (b"a\nb", "a%0Ab"),
        (b"\xff", "%FF"),
        (b"\xc2\x85", "%C2%85"),
        (b"\x7f", "%7F"),
        (b"\xed\xa0\x80", "%ED%A0%80"),
        (b"=1", "./=1"),
        (b"+1", "./+1"),
        (b"-1", "./-1"),
        (b"@a", "./@a"),
        ("\uff1d1".encode(), "./\uff1d1"),
        (b"a;=1", "a%3B=1"),
        (b"a\t+1", "a%09+1"),
        (b"a/=1", "a/=1"),
        (b"./a", "././a"),
    ],
)
def test_paths_are_escaped_as_documented(path: bytes, text: str) -> None:
    """See docs/predictions.md."""
    assert escape_path(path) == text
    assert unescape_path(text) == path


@given(st.binary(max_size=30) | st.text("=+-@./%;\t\uff1d\uff20\n\u0085éa", max_size=12).map(str.encode))
def test_any_path_can_be_unescaped(path: bytes) -> None:
    """No escaped path has a control character or starts a formula."""
    text = escape_path(path)
    assert unescape_path(text) == path
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    assert not text.startswith(FORMULA_STARTS)
    assert not set(text) & {";", "\t"}
    assert text.encode().decode() == text
    assert update_escape(text) == text


@pytest.mark.parametrize(("former", "path"), [("a;=1", b"a;=1"), ("\uff0b1;", "\uff0b1;".encode()), ("./-%25", b"-%")])
def test_a_path_of_an_earlier_version_is_read_and_escaped_again(former: str, path: bytes) -> None:
    assert unescape_path(former) == path
    assert update_escape(former) == escape_path(path)


@pytest.mark.parametrize("text", ["%", "a%4", "%zz", "% 1", "\ud800"])
def test_text_that_is_not_an_escaped_path_is_refused(text: str) -> None:
    """A `%` must be followed by two hexadecimal digits."""
    with pytest.raises(UsageError, match="is not an escaped path"):
        unescape_path(text)


def test_files_are_listed_in_byte_order_of_their_paths(tmp_path: Path) -> None:
    """For example, `a.png` is listed before `a/1.png`, and that before `a0.png`."""
    names = [b"a/1.png", b"a.png", b"a0.png", b"a-/x.png", b"a/b/2.png", b"B.png", b"\xff/1.png", *HOSTILE]
    make(tmp_path, *names)
    assert listed(tmp_path) == sorted(names)
    assert listed(tmp_path, recursive=False) == sorted(name for name in names if b"/" not in name)


def test_entries_have_size_modification_time_and_inode(tmp_path: Path) -> None:
    """With these, a change is detected without reading the file."""
    make(tmp_path, b"x/a.png")
    (entry,) = Listing(tmp_path)
    status = (tmp_path / "x" / "a.png").stat()
    assert entry == Entry(b"x/a.png", status.st_size, status.st_mtime_ns, status.st_ino)
    assert entry_for(tmp_path / "x", b"a.png")[1:] == entry[1:]


def test_skipped_entries_are_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are skipped even if they lead to files in the folder. A second iteration starts its counts at zero."""
    make(tmp_path, b"a.png", b"notes.txt", b"png", b"deep/b.jpg")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "deep" / "loop").symlink_to("..")
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket.png")
    listing = Listing(tmp_path)
    assert [entry.path for entry in listing] == [b"a.png", b"deep/b.jpg"]
    assert listing.skipped == {"other-file": 2, "link": 3, "fifo": 1, "socket": 1}
    flat = Listing(tmp_path, recursive=False, selection=Selection(all_files=True))
    assert [entry.path for entry in flat] == [b"a.png", b"notes.txt", b"png"]
    assert flat.skipped["sub-folder"] == 1
    assert [entry.path for entry in listing] == [b"a.png", b"deep/b.jpg"]
    assert listing.skipped["link"] == 3


def test_devices_are_skipped() -> None:
    """They are counted as `device`."""
    listing = Listing(Path("/dev"), recursive=False, selection=Selection(all_files=True))
    list(listing)
    assert listing.skipped["device"] > 0


def test_own_files_are_skipped(tmp_path: Path) -> None:
    """They are the table, files beside it, their temporary files and a work folder, also if named through a link."""
    inside = tmp_path / "in"
    make(inside, b"a.png", b"p.csv", b"p.summary.json", b".p.csv.0123456789abcdef.tmp", b"work/x.png", b".q.tmp")
    (tmp_path / "link").symlink_to(inside)
    own = [tmp_path / "link" / name for name in ("p.csv", "p.summary.json", "work")]
    for root in (inside, tmp_path / "link"):
        listing = Listing(root, selection=Selection(all_files=True), own_files=[*own, tmp_path / "elsewhere.csv"])
        assert [entry.path for entry in listing] == [b".q.tmp", b"a.png"]
        assert listing.skipped == {"output": 4}


def test_very_deep_folders_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are nested deeper than Python's stack allows, and their path is longer than the kernel accepts."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        Path("deeply").mkdir()
        os.chdir("deeply")
    Path("a.png").touch()
    assert listed(tmp_path) == [b"deeply/" * 1200 + b"a.png"]
    Path("a.png").unlink()
    for _ in range(1200):
        os.chdir("..")
        Path("deeply").rmdir()


def test_a_folder_inside_itself_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount can create such a loop."""
    make(tmp_path, b"a/b.png")
    real = DirectoryReader.directory
    monkeypatch.setattr(DirectoryReader, "directory", lambda self, path: real(self, path.replace(b"a/a", b"")))
    (tmp_path / "a" / "a").mkdir()
    listing = Listing(tmp_path)
    assert [entry.path for entry in listing] == [b"a/b.png"]
    assert listing.skipped["loop"] == 1


def test_a_folder_that_appears_twice_is_not_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount beside a folder lists the files under both paths."""
    make(tmp_path, b"a/b.png")
    (tmp_path / "c").mkdir()
    real = DirectoryReader.directory
    monkeypatch.setattr(DirectoryReader, "directory", lambda self, path: real(self, path.replace(b"c", b"a")))
    assert listed(tmp_path) == [b"a/b.png", b"c/b.png"]


def test_entries_without_permission_are_reported(world_readable: Path) -> None:
    """An unreadable folder is counted. The files of a folder that may only be read are listed as denied."""
    make(world_readable, b"locked/a.png", b"names-only/b.png", b"mine.png")
    (world_readable / "locked").chmod(0)
    (world_readable / "names-only").chmod(0o744)
    (world_readable / "mine.png").chmod(0)
    with without_root(), DirectoryReader(world_readable) as reader:
        listing = Listing(world_readable)
        entries = list(listing)
        assert listing.skipped["unreadable-folder"] == 1
        assert [entry.path for entry in entries] == [b"mine.png", b"names-only/b.png"]
        assert entries[1].size == DENIED_SIZE
        for entry in entries:
            with pytest.raises(DecodeError) as caught:
                read_entry(reader, entry, max_bytes=100)
            assert caught.value.status == "denied"
    (world_readable / "locked").chmod(0o755)


@pytest.mark.parametrize("failure", [FileNotFoundError, NotADirectoryError])
def test_a_folder_that_vanishes_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[OSError]
) -> None:
    """It vanishes after its name was read and before it is opened."""
    make(tmp_path, b"a/b.png", b"c.png")
    real = DirectoryReader.directory

    def directory(self: DirectoryReader, path: bytes) -> int:
        if path:
            raise failure
        return real(self, path)

    monkeypatch.setattr(DirectoryReader, "directory", directory)
    listing = Listing(tmp_path)
    assert [entry.path for entry in listing] == [b"c.png"]
    assert listing.skipped["vanished"] == 1


def test_a_source_is_a_folder_or_a_file(tmp_path: Path) -> None:
    """The source may be named through a link."""
    make(tmp_path, b"in/a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "one").symlink_to(tmp_path / "in" / "a.txt")
    assert resolve_source(tmp_path / "link") == (tmp_path.resolve() / "in", None)
    assert resolve_source(tmp_path / "one") == (tmp_path.resolve() / "in", b"a.txt")


def test_a_source_that_is_neither_or_cannot_be_read_is_an_error(world_readable: Path) -> None:
    """The sources are missing, a FIFO, and a folder without permission."""
    os.mkfifo(world_readable / "fifo")
    (world_readable / "closed").mkdir(mode=0)
    with pytest.raises(UsageError, match="No such file"):
        resolve_source(world_readable / "missing")
    with pytest.raises(UsageError, match="found a fifo"):
        resolve_source(world_readable / "fifo")
    with without_root(), pytest.raises(UsageError, match="Permission denied"):
        resolve_source(world_readable / "closed")


def replaced_by_fifo(path: Path) -> None:
    """Replace a file by a FIFO. A blocking open of it would never return."""
    path.unlink()
    os.mkfifo(path)


def replaced_by_link(path: Path) -> None:
    """Replace a file by a link."""
    path.rename(path.with_name("real.png"))
    path.symlink_to("real.png")


def folder_replaced_by_link(path: Path) -> None:
    """Replace a file's folder by a link."""
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to("real")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (Path.unlink, "vanished"),
        (lambda path: path.write_bytes(b"longer than before"), "changed"),
        (lambda path: os.utime(path, ns=(0, 0)), "changed"),
        (replaced_by_fifo, "changed"),
        (replaced_by_link, "changed"),
        (folder_replaced_by_link, "changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "changed"),
    ],
)
def test_a_file_that_changed_after_it_was_listed_is_not_read(
    tmp_path: Path, change: Callable[[Path], object], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the status, and no other file is read instead."""
    make(tmp_path, b"in/a.png")
    (entry,) = Listing(tmp_path)
    change(tmp_path / "in" / "a.png")
    monkeypatch.setattr("digits.images.folder.os.read", None)
    with DirectoryReader(tmp_path) as reader, pytest.raises(DecodeError) as caught:
        read_entry(reader, entry, max_bytes=100)
    assert caught.value.status == status


def test_a_file_that_changes_its_size_while_it_is_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows, or becomes empty."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    for content in (b"", b"a.png and more"):
        monkeypatch.setattr("digits.images.folder.os.read", lambda *_, content=content: content)
        with DirectoryReader(tmp_path) as reader, pytest.raises(DecodeError) as caught:
            read_entry(reader, entry, max_bytes=100)
        assert caught.value.status == "changed"


def test_a_file_that_is_overwritten_while_it_is_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size stays the same, but its modification time changes."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        os.utime(tmp_path / "a.png", ns=(0, 0))
        return real(descriptor, size)

    monkeypatch.setattr("digits.images.folder.os.read", read)
    with DirectoryReader(tmp_path) as reader, pytest.raises(DecodeError) as caught:
        read_entry(reader, entry, max_bytes=100)
    assert caught.value.status == "changed"


def test_short_reads_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may return fewer bytes than requested."""
    make(tmp_path, b"abc.png")
    (entry,) = Listing(tmp_path)
    real = os.read
    monkeypatch.setattr("digits.images.folder.os.read", lambda descriptor, size: real(descriptor, min(size, 2)))
    with DirectoryReader(tmp_path) as reader:
        assert read_entry(reader, entry, max_bytes=100) == b"abc.png"


def test_a_file_that_is_truncated_between_two_reads_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second read returns nothing."""
    make(tmp_path, b"abc.png")
    (entry,) = Listing(tmp_path)
    pieces = iter([b"abc", b""])
    monkeypatch.setattr("digits.images.folder.os.read", lambda *_: next(pieces))
    with DirectoryReader(tmp_path) as reader, pytest.raises(DecodeError) as caught:
        read_entry(reader, entry, max_bytes=100)
    assert caught.value.status == "changed"


def test_a_file_above_the_size_limit_is_too_large(tmp_path: Path) -> None:
    """A file of exactly the limit is read."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    with DirectoryReader(tmp_path) as reader:
        assert read_entry(reader, entry, max_bytes=5) == b"a.png"
        with pytest.raises(DecodeError, match="5 bytes are over the limit of 4") as caught:
            read_entry(reader, entry, max_bytes=4)
    assert caught.value.status == "too-large"


def test_a_disk_error_is_that_of_a_file_but_exhausted_descriptors_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable file has a row; the run must stop if no file can be opened."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    with DirectoryReader(tmp_path) as reader:
        for number, expected in ((errno.EIO, DecodeError), (errno.EMFILE, OSError)):
            monkeypatch.setattr(reader, "file", lambda _, number=number: (_ for _ in ()).throw(OSError(number, "x")))
            with pytest.raises(expected):
                read_entry(reader, entry, max_bytes=100)


def open_descriptors() -> int:
    """Return the number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """This holds after listing, reading and failing in several folders."""
    make(tmp_path, b"a/b/1.png", b"a/c/2.png", b"d/3.png")
    before = open_descriptors()
    entries = list(Listing(tmp_path))
    (tmp_path / "d" / "3.png").unlink()
    (tmp_path / "d").rmdir()
    with DirectoryReader(tmp_path) as reader:
        for entry in entries[:2]:
            read_entry(reader, entry, max_bytes=100)
        with pytest.raises(DecodeError):
            read_entry(reader, entries[2], max_bytes=100)
        with pytest.raises(FileNotFoundError):
            reader.directory(b"a/b/nowhere/at/all")
    assert open_descriptors() == before
