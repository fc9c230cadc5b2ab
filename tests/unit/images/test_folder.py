"""Folders that anybody may have filled: listed in order, read without surprises, every name coming back."""

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
)
from digits.images.patterns import Selection
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
    """Make files, whatever their names."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)


def listed(root: Path, **options: object) -> list[bytes]:
    """List a folder's paths."""
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
        (b"a/=1", "a/=1"),
        (b"./a", "././a"),
    ],
)
def test_the_escape_is_the_contract(path: bytes, text: str) -> None:
    """As architecture and docs say."""
    assert escape_path(path) == text
    assert unescape_path(text) == path


@given(st.binary(max_size=30) | st.text("=+-@./%\n\u0085éa", max_size=12).map(str.encode))
def test_every_name_comes_back(path: bytes) -> None:
    """No two names are written alike, none has a control character, none starts a formula."""
    text = escape_path(path)
    assert unescape_path(text) == path
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
    assert not text.startswith(("=", "+", "-", "@"))
    assert text.encode().decode() == text


@pytest.mark.parametrize("text", ["%", "a%4", "%zz", "% 1", "\ud800"])
def test_what_is_no_escaped_path(text: str) -> None:
    """It is refused, not guessed."""
    with pytest.raises(UsageError, match="is not an escaped path"):
        unescape_path(text)


def test_the_order_is_that_of_the_paths_bytes(tmp_path: Path) -> None:
    """Not that of a walk: `a.png` before `a/`, which comes before `a0.png`."""
    names = [b"a/1.png", b"a.png", b"a0.png", b"a-/x.png", b"a/b/2.png", b"B.png", b"\xff/1.png", *HOSTILE]
    make(tmp_path, *names)
    assert listed(tmp_path) == sorted(names)
    assert listed(tmp_path, recursive=False) == sorted(name for name in names if b"/" not in name)


def test_entries_tell_what_stat_tells(tmp_path: Path) -> None:
    """Size, modification time and inode, so that a change is seen without reading."""
    make(tmp_path, b"x/a.png")
    (entry,) = Listing(tmp_path)
    status = (tmp_path / "x" / "a.png").stat()
    assert entry == Entry(b"x/a.png", status.st_size, status.st_mtime_ns, status.st_ino)
    assert entry_for(tmp_path / "x", b"a.png")[1:] == entry[1:]


def test_all_else_is_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, also to files and folders within, FIFOs, sockets, devices, other files."""
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


def test_a_device_is_not_opened() -> None:
    """The null device, among others."""
    listing = Listing(Path("/dev"), recursive=False, selection=Selection(all_files=True))
    list(listing)
    assert listing.skipped["device"] > 0


def test_our_own_output_is_left_out(tmp_path: Path) -> None:
    """The table, what stands beside it, temporary files of both, the work folder, also through a link."""
    inside = tmp_path / "in"
    make(inside, b"a.png", b"p.csv", b"p.summary.json", b".p.csv.0123456789abcdef.tmp", b"work/x.png", b".q.tmp")
    (tmp_path / "link").symlink_to(inside)
    ours = [tmp_path / "link" / name for name in ("p.csv", "p.summary.json", "work")]
    for root in (inside, tmp_path / "link"):
        listing = Listing(root, selection=Selection(all_files=True), own_files=[*ours, tmp_path / "elsewhere.csv"])
        assert [entry.path for entry in listing] == [b".q.tmp", b"a.png"]
        assert listing.skipped == {"output": 4}


def test_folders_nested_beyond_the_longest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python's stack, and than a path the kernel would take."""
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


def test_a_folder_within_itself_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bind mount can make it."""
    make(tmp_path, b"a/b.png")
    real = DirectoryReader.directory
    monkeypatch.setattr(DirectoryReader, "directory", lambda self, path: real(self, path.replace(b"a/a", b"")))
    (tmp_path / "a" / "a").mkdir()
    listing = Listing(tmp_path)
    assert [entry.path for entry in listing] == [b"a/b.png"]
    assert listing.skipped["loop"] == 1


def test_a_folder_that_is_there_twice_is_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bind mount beside it makes it: both have their rows."""
    make(tmp_path, b"a/b.png")
    (tmp_path / "c").mkdir()
    real = DirectoryReader.directory
    monkeypatch.setattr(DirectoryReader, "directory", lambda self, path: real(self, path.replace(b"c", b"a")))
    assert listed(tmp_path) == [b"a/b.png", b"c/b.png"]


def test_what_may_not_be_read_is_reported(world_readable: Path) -> None:
    """A folder that may not be read is counted; one that may not be entered still tells its files."""
    make(world_readable, b"locked/a.png", b"names-only/b.png", b"mine.png")
    (world_readable / "locked").chmod(0)
    (world_readable / "names-only").chmod(0o744)
    (world_readable / "mine.png").chmod(0)
    with without_root(), DirectoryReader(world_readable) as beneath:
        listing = Listing(world_readable)
        entries = list(listing)
        assert listing.skipped["unreadable-folder"] == 1
        assert [entry.path for entry in entries] == [b"mine.png", b"names-only/b.png"]
        assert entries[1].size == DENIED_SIZE
        for entry in entries:
            with pytest.raises(DecodeError) as caught:
                read_entry(beneath, entry, max_bytes=100)
            assert caught.value.status == "denied"
    (world_readable / "locked").chmod(0o755)


@pytest.mark.parametrize("failure", [FileNotFoundError, NotADirectoryError])
def test_a_folder_that_vanishes_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[OSError]
) -> None:
    """Between its name being read and its being opened."""
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
    """Also through a link, as the user named it."""
    make(tmp_path, b"in/a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "one").symlink_to(tmp_path / "in" / "a.txt")
    assert resolve_source(tmp_path / "link") == (tmp_path.resolve() / "in", None)
    assert resolve_source(tmp_path / "one") == (tmp_path.resolve() / "in", b"a.txt")


def test_a_source_that_is_neither(world_readable: Path) -> None:
    """Missing, a FIFO, or closed to us: said at once, in one sentence."""
    os.mkfifo(world_readable / "fifo")
    (world_readable / "closed").mkdir(mode=0)
    with pytest.raises(UsageError, match="No such file"):
        resolve_source(world_readable / "missing")
    with pytest.raises(UsageError, match="found neither"):
        resolve_source(world_readable / "fifo")
    with without_root(), pytest.raises(UsageError, match="Permission denied"):
        resolve_source(world_readable / "closed")


def replaced_by_fifo(path: Path) -> None:
    """Put a FIFO in a file's place: opening it for reading would wait forever."""
    path.unlink()
    os.mkfifo(path)


def replaced_by_link(path: Path) -> None:
    """Put a link in a file's place."""
    path.rename(path.with_name("real.png"))
    path.symlink_to("real.png")


def folder_replaced_by_link(path: Path) -> None:
    """Put a link in the place of a file's folder."""
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
def test_a_file_that_is_not_what_was_listed(
    tmp_path: Path, change: Callable[[Path], object], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says so, and nothing else is read in its place."""
    make(tmp_path, b"in/a.png")
    (entry,) = Listing(tmp_path)
    change(tmp_path / "in" / "a.png")
    monkeypatch.setattr("digits.images.folder.os.read", None)
    with DirectoryReader(tmp_path) as beneath, pytest.raises(DecodeError) as caught:
        read_entry(beneath, entry, max_bytes=100)
    assert caught.value.status == status


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing, or being cut to nothing."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    for content in (b"", b"a.png and more"):
        monkeypatch.setattr("digits.images.folder.os.read", lambda *_, content=content: content)
        with DirectoryReader(tmp_path) as beneath, pytest.raises(DecodeError) as caught:
            read_entry(beneath, entry, max_bytes=100)
        assert caught.value.status == "changed"


def test_a_file_that_is_overwritten_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as many bytes: half of them old, half of them new."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        os.utime(tmp_path / "a.png", ns=(0, 0))
        return real(descriptor, size)

    monkeypatch.setattr("digits.images.folder.os.read", read)
    with DirectoryReader(tmp_path) as beneath, pytest.raises(DecodeError) as caught:
        read_entry(beneath, entry, max_bytes=100)
    assert caught.value.status == "changed"


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel may give them."""
    make(tmp_path, b"abc.png")
    (entry,) = Listing(tmp_path)
    real = os.read
    monkeypatch.setattr("digits.images.folder.os.read", lambda descriptor, size: real(descriptor, min(size, 2)))
    with DirectoryReader(tmp_path) as beneath:
        assert read_entry(beneath, entry, max_bytes=100) == b"abc.png"


def test_a_file_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short between two reads."""
    make(tmp_path, b"abc.png")
    (entry,) = Listing(tmp_path)
    pieces = iter([b"abc", b""])
    monkeypatch.setattr("digits.images.folder.os.read", lambda *_: next(pieces))
    with DirectoryReader(tmp_path) as beneath, pytest.raises(DecodeError) as caught:
        read_entry(beneath, entry, max_bytes=100)
    assert caught.value.status == "changed"


def test_the_limit_on_bytes(tmp_path: Path) -> None:
    """A file over it is not opened."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    with DirectoryReader(tmp_path) as beneath:
        assert read_entry(beneath, entry, max_bytes=5) == b"a.png"
        with pytest.raises(DecodeError, match="5 bytes are over the limit of 4") as caught:
            read_entry(beneath, entry, max_bytes=4)
    assert caught.value.status == "too-large"


def test_a_failing_disk_and_a_failing_process_are_not_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable file has its row; but when no file can be opened, the run must stop."""
    make(tmp_path, b"a.png")
    (entry,) = Listing(tmp_path)
    with DirectoryReader(tmp_path) as beneath:
        for number, expected in ((errno.EIO, DecodeError), (errno.EMFILE, OSError)):
            monkeypatch.setattr(beneath, "file", lambda _, number=number: (_ for _ in ()).throw(OSError(number, "x")))
            with pytest.raises(expected):
                read_entry(beneath, entry, max_bytes=100)


def open_descriptors() -> int:
    """Count our open files."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """After listing, reading and failing in many folders."""
    make(tmp_path, b"a/b/1.png", b"a/c/2.png", b"d/3.png")
    before = open_descriptors()
    entries = list(Listing(tmp_path))
    (tmp_path / "d" / "3.png").unlink()
    (tmp_path / "d").rmdir()
    with DirectoryReader(tmp_path) as beneath:
        for entry in entries[:2]:
            read_entry(beneath, entry, max_bytes=100)
        with pytest.raises(DecodeError):
            read_entry(beneath, entries[2], max_bytes=100)
        with pytest.raises(FileNotFoundError):
            beneath.directory(b"a/b/nowhere/at/all")
    assert open_descriptors() == before
