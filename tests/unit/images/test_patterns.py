"""Selection of files by patterns, extensions and content."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from digits.errors import UsageError
from digits.images.folder import Listing
from digits.images.patterns import Selection
from tests.support.faults import without_root
from tests.support.tiny_model import draw


def no_head() -> bytes | None:
    """Raise an error if a file's first bytes are read."""
    raise AssertionError


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.dat", ["a.dat", "x/y/a.dat", ".dat", "x.dat/a", "x.dat/"], ["a.data", "dat", "adat"]),
        ("a?.png", ["ab.png", "x/aü.png"], ["a.png", "abc.png", "a/.png"]),
        ("a[0-9].png", ["a0.png"], ["ab.png", "a10.png"]),
        ("[!a]", ["b", "x/ü"], ["a", "bb"]),
        ("[]x]", ["]", "x"], ["a", "[]x]"]),
        ("[^]x]", ["a"], ["]", "x"]),
        ("[a", ["[a"], ["a"]),
        ("[]", ["[]"], ["a"]),
        ("[&&~~||]", ["&", "~", "|"], ["a"]),
        (r"\*", ["*", "x/*"], ["a"]),
        ("\\", ["\\"], ["a"]),
        ("tmp", ["tmp", "tmp/", "tmp/a", "x/tmp/y/a"], ["tmp2", "atmp", "x/tmp2/a"]),
        ("tmp/", ["tmp/", "tmp/a", "x/tmp/a"], ["tmp", "x/tmp"]),
        ("/y", ["y", "y/a"], ["x/y", "x/y/a"]),
        ("x/*.png", ["x/a.png"], ["y/x/a.png", "x/y/a.png"]),
        ("x/**/a.png", ["x/a.png", "x/y/a.png", "x/y/z/a.png"], ["xa.png", "y/x/a.png", "x/ya.png"]),
        ("**/x/a", ["x/a", "y/x/a", "z/y/x/a"], ["yx/a"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "x/", "y/x/a"]),
        ("x**/a", ["x/a", "xy/z/a"], ["xa"]),
        ("*", ["a", "x/a", "a\nb"], []),
        ("A", ["A"], ["a"]),
    ],
)
def test_patterns_match_as_in_gitignore(pattern: str, matching: list[str], others: list[str]) -> None:
    """A pattern matches a name at any depth, a path relative to the folder, or everything in a folder."""
    selection = Selection(exclude=[pattern])
    assert [path for path in matching if not selection.excludes(path.encode())] == []
    assert [path for path in others if selection.excludes(path.encode())] == []


def test_each_byte_that_is_not_utf_8_matches_as_one_character(tmp_path: Path) -> None:
    """A pattern from the command line may contain such bytes too."""
    assert Selection(exclude=["a?b"]).excludes(b"a\xffb")
    assert Selection(exclude=[os.fsdecode(b"a\xff*")]).excludes(b"a\xffbc")
    assert not Selection(exclude=["a?b"]).excludes(b"a\xff\xffb")


@given(st.text(max_size=12), st.binary(max_size=12))
def test_any_pattern_is_refused_or_can_be_matched(pattern: str, path: bytes) -> None:
    """The error names the pattern."""
    try:
        Selection(exclude=[pattern]).excludes(path)
    except UsageError as error:
        assert repr(pattern) in str(error)  # noqa: PT017


@pytest.mark.parametrize("pattern", ["[z-a]", "", "/"])
def test_a_malformed_pattern_is_an_error(pattern: str) -> None:
    """Otherwise it would silently match nothing."""
    with pytest.raises(UsageError, match="the pattern"):
        Selection(include=[pattern])


def test_exclude_overrides_include_and_include_overrides_the_extension() -> None:
    """Each case has its reason."""
    assert Selection().reason_to_skip(b"a.PNG", no_head) is None
    assert Selection().reason_to_skip(b"a.txt", no_head) == "other-file"
    assert Selection(all_files=True).reason_to_skip(b"a.txt", no_head) is None
    some = Selection(include=["*.dat", "b*"], exclude=["x"])
    assert some.reason_to_skip(b"a.dat", no_head) is None
    assert some.reason_to_skip(b"b", no_head) is None
    assert some.reason_to_skip(b"a.png", no_head) == "not-included"
    assert some.reason_to_skip(b"x/a.dat", no_head) == "excluded"


def make(root: Path, *names: str) -> None:
    """Create empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_excluded_folders_are_not_entered(world_readable: Path) -> None:
    """Each counts once, even if it cannot be read."""
    make(world_readable, "a.png", "tmp/b.png", "tmp/c.png", "x/tmp/d.png", "x/e.png", "x/thumb.png")
    (world_readable / "tmp").chmod(0)
    with without_root():
        listing = Listing(world_readable, selection=Selection(exclude=["tmp", "thumb*"]))
        assert [entry.path for entry in listing] == [b"a.png", b"x/e.png"]
        assert listing.skipped == {"excluded": 3}
    (world_readable / "tmp").chmod(0o755)


def test_included_files_are_listed_whatever_their_extensions(tmp_path: Path) -> None:
    """Patterns without `/` match at any depth."""
    make(tmp_path, "a.png", "b.dat", "x/c.dat", "x/d.png", "scans/e", "scans/y/f.txt")
    listing = Listing(tmp_path, selection=Selection(include=["*.dat", "scans/"], exclude=["y"]))
    assert [entry.path for entry in listing] == [b"b.dat", b"scans/e", b"x/c.dat"]
    assert listing.skipped == {"not-included": 2, "excluded": 1}


def test_files_are_selected_by_content(world_readable: Path) -> None:
    """Formats are recognized by their first bytes. An unreadable file is listed, so that its row reports it."""
    for ending in ("png", "jpg", "gif", "bmp", "webp", "tif"):
        Image.fromarray(draw(0)).save(world_readable / f"picture.{ending}")
        (world_readable / f"picture.{ending}").rename(world_readable / f"picture-{ending}")
    make(world_readable, "empty.png", "secret")
    (world_readable / "text.png").write_text("no picture")
    (world_readable / "secret").chmod(0)
    os.mkfifo(world_readable / "fifo.png")
    with without_root():
        listing = Listing(world_readable, selection=Selection(by_content=True))
        names = [entry.path for entry in listing]
    assert names == [b"picture-bmp", b"picture-gif", b"picture-jpg", b"picture-png", b"picture-tif", b"picture-webp",
                     b"secret"]  # fmt: skip
    assert listing.skipped == {"other-file": 2, "fifo": 1}


SYSTEM = [
    *("._a.png", "x/._a.png", "._", "Thumbs.db", "x/.DS_Store"),
    *("__MACOSX/", "__MACOSX/a.png", "__MACOSX/x/._a.png", "x/__MACOSX/", "@eaDir/", "x/@eaDir/a.png/THUMB_M.jpg"),
    *("#recycle/a.png", ".@__thumb/a.png", ".Trash-1000/files/a.png", "$RECYCLE.BIN/S-1/a.png", ".git/annex/a.png"),
    *("System Volume Information/", ".thumbnails/normal/a.png", ".ipynb_checkpoints/a-checkpoint.png", "a\n/._b"),
]
OTHERS = [
    "a.png",
    ".a.png",
    "_.a.png",
    "a._b.png",
    ".../a.png",
    "__MACOSX",
    "x__MACOSX/a.png",
    "eaDir/a.png",
    "@eaDir2/",
]


@pytest.mark.parametrize("path", SYSTEM)
def test_system_files_are_left_out_unless_asked_for(path: str) -> None:
    """Including a name that matches, or all files, does not include them."""
    for options in ({}, {"include": ["*"]}, {"all_files": True}, {"by_content": True}):
        assert Selection(**options).reason_to_skip(path.encode(), no_head) == "system-file"
        assert Selection(**options).reason_to_skip_folder(path.encode()) == "system-file"
    assert Selection(all_files=True, system_files=True).reason_to_skip(path.encode(), no_head) is None
    assert Selection(system_files=True).reason_to_skip_folder(path.encode()) is None
    assert Selection(exclude=["*"]).reason_to_skip(path.encode(), no_head) == "excluded"


@pytest.mark.parametrize("path", OTHERS)
def test_similar_names_are_no_system_files(path: str) -> None:
    """A name has to match as a whole; those of folders match folders only."""
    assert Selection(all_files=True).reason_to_skip(path.encode(), no_head) is None


def test_system_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    """A folder counts once and is not read; as the folder that is listed, it is an ordinary folder."""
    for name in ("a.png", "._a.png", "x/@eaDir/a.png/b.jpg", "x/@eaDir/c.jpg", "__MACOSX/._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listing = Listing(tmp_path)
    assert [entry.path for entry in listing] == [b"a.png"]
    assert listing.skipped == {"system-file": 3}
    assert [entry.path for entry in Listing(tmp_path / "x" / "@eaDir")] == [b"a.png/b.jpg", b"c.jpg"]
    every = Listing(tmp_path, selection=Selection(system_files=True))
    assert len(list(every)) == 5
    assert not every.skipped
