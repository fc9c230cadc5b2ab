"""File lists: an entry per listed file, and none from outside the folder."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from digits.errors import UsageError
from digits.images.decode import DecodeError
from digits.images.file_list import FileList, read_file_list
from digits.images.folder import DENIED_SIZE, DirectoryReader, Entry, Listing, read_entry
from digits.images.patterns import Selection
from tests.support.faults import without_root


def make(root: Path, *names: str) -> None:
    """Create files whose content is their name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def named(root: Path, *names: bytes, **options: object) -> tuple[list[bytes], dict[str, int]]:
    """Return the paths in a listing of named files, and the number of skipped names by reason."""
    listing = FileList(root, names, **options)  # type: ignore[arg-type]
    return [entry.path for entry in listing], dict(listing.skipped)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.png\nx/b c.png\n\n", [b"a.png", b"x/b c.png"]),
        (b"a.png\nlast", [b"a.png", b"last"]),
        (b"a\nb.png\0c.png\0", [b"a\nb.png", b"c.png"]),
        (b"\xff\r\n", [b"\xff\r"]),
        (b"", []),
    ],
)
def test_paths_in_a_list_are_lines_or_ended_by_nul(
    tmp_path: Path, content: bytes, names: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is read from a file or from standard input."""
    (tmp_path / "list").write_bytes(content)
    assert read_file_list(tmp_path / "list") == names
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_file_list(Path("-")) == names


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    """The message names the list."""
    with pytest.raises(
        UsageError, match=r"nowhere: could not be read \(No such file or directory\); expected a list of files"
    ):
        read_file_list(tmp_path / "nowhere")


def test_named_files_have_the_entries_of_a_folder_listing(tmp_path: Path) -> None:
    """The order is the same, and each file is listed once, even if it is named in several ways."""
    make(tmp_path, "a/1.png", "a.png", "a0.png", "b.txt")
    names = [b"a0.png", b"./a.png", b"a//1.png", b"b.txt", b"a/../a.png", os.fsencode(tmp_path / "a0.png")]
    assert list(FileList(tmp_path, names)) == list(Listing(tmp_path, selection=Selection(all_files=True)))


def test_absolute_paths_below_the_folder_are_listed(tmp_path: Path) -> None:
    """The paths may begin with the folder's real path or an alias, and have repeated slashes."""
    make(tmp_path, "in/a.png", "in2/b.png")
    link = tmp_path / "link"
    link.symlink_to("in")
    names = [os.fsencode(tmp_path / path) for path in ("link/a.png", "in2/b.png", "in")] + [b"/etc/passwd"]
    assert named(tmp_path / "in", *names, aliases=[link]) == ([b"a.png"], {"outside": 2, "folder": 1})
    assert named(tmp_path / "in", b"/" + names[0], names[0]) == ([], {"outside": 1})
    assert named(tmp_path / "in", b"/" + os.fsencode(tmp_path / "in/a.png")) == ([b"a.png"], {})
    assert named(Path("/"), os.fsencode(tmp_path / "in/a.png"))[0] == [os.fsencode(tmp_path / "in/a.png")[1:]]


def test_names_that_lead_out_of_the_folder_are_skipped(tmp_path: Path) -> None:
    """They lead upwards or through links. Names of other things than files are skipped too."""
    make(tmp_path, "secret.png", "in/a.png", "in/x/b.png")
    inside = tmp_path / "in"
    (inside / "up").symlink_to("..")
    (inside / "link.png").symlink_to("../secret.png")
    os.mkfifo(inside / "fifo.png")
    names = [b"..", b"../secret.png", b"x/../../secret.png", b"up/secret.png", b"link.png", b"fifo.png", b"x", b".",
             b"x/b.png"]  # fmt: skip
    assert named(inside, *names) == ([b"x/b.png"], {"outside": 2, "link": 2, "fifo": 1, "folder": 2})


def test_missing_and_denied_files_are_listed(world_readable: Path) -> None:
    """Reading them gives the status `vanished` or `denied`."""
    make(world_readable, "a.png", "closed/b.png")
    (world_readable / "closed").chmod(0)
    names = [b"a.png/c.png", b"closed/b.png", b"gone.png", b"gone/d.png", b"e" * 300]
    with without_root(), DirectoryReader(world_readable) as reader:
        entries = list(FileList(world_readable, names))
        statuses = {}
        for entry in entries:
            with pytest.raises(DecodeError) as caught:
                read_entry(reader, entry, max_bytes=100)
            statuses[entry.path[:8]] = caught.value.status
    (world_readable / "closed").chmod(0o755)
    assert entries[1] == Entry(b"closed/b.png", DENIED_SIZE, 0, 0)
    assert statuses == {b"a.png/c.": "vanished", b"closed/b": "denied", b"gone.png": "vanished",
                        b"gone/d.p": "vanished", b"eeeeeeee": "vanished"}  # fmt: skip


def test_exhausted_descriptors_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not reported as a missing file."""

    def directory(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(DirectoryReader, "directory", directory)
    with pytest.raises(OSError, match="Too many"):
        named(tmp_path, b"a.png")


def test_selection_and_own_files_apply_to_named_files(tmp_path: Path) -> None:
    """So does the option for subfolders."""
    make(tmp_path, "a.png", "b.dat", "x/c.png", "p.csv", "work/d.png")
    names = [b"a.png", b"b.dat", b"x/c.png", b"p.csv", b"work/d.png", b"gone.dat", b"gone.png"]
    own = [tmp_path / "p.csv", tmp_path / "work"]
    every = [b"a.png", b"b.dat", b"gone.dat", b"gone.png", b"x/c.png"]
    assert named(tmp_path, *names, own_files=own) == (every, {"output": 2})
    assert named(tmp_path, *names, own_files=own, recursive=False)[1] == {"output": 2, "sub-folder": 1}
    excluding = Selection(all_files=True, exclude=["*.dat", "x"])
    assert named(tmp_path, *names, own_files=own, selection=excluding) == (
        [b"a.png", b"gone.png"],
        {"excluded": 3, "output": 2},
    )
    (tmp_path / "b.dat").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert named(tmp_path, *names[:2], selection=Selection(by_content=True)) == ([b"b.dat"], {"other-file": 1})
