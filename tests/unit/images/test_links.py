"""Tests of links: which are followed, what is counted, and that no read leaves the folder unless asked for."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.images.decode import DecodeError
from digits.images.file_list import FileList
from digits.images.folder import DirectoryReader, Entry, LinkRule, Listing, entry_for, read_entry
from digits.images.patterns import Selection
from digits.images.source import open_source
from tests.support.faults import without_root

Place = tuple[Path, Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Folder with links of all kinds, and a directory beside it."""
    root, outside = tmp_path / "in", tmp_path / "outside"
    for name in ("in/a.png", "in/x/b.png", "outside/c.png", "outside/deep/d.png", "in.png", "in2/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    os.mkfifo(outside / "fifo")
    targets = {
        "l-file.png": "a.png",
        "l-absolute.png": str(root / "x" / "b.png"),
        "l-folder": "x",
        "l-root": ".",
        "l-out.png": "../outside/c.png",
        "l-out": str(outside),
        "l-sibling": "../in2",
        "l-back.png": "../outside/../in/a.png",
        "l-chain.png": "l-out.png",
        "l-broken.png": "nowhere",
        "l-self.png": "l-self.png",
        "l-fifo.png": "../outside/fifo",
        "l-text.txt": "a.png",
        "x/l-up": "..",
    }
    for name, target in targets.items():
        (root / name).symlink_to(target)
    return root, outside


def listed(root: Path, links: LinkRule, **options: object) -> tuple[list[str], dict[str, int]]:
    """Return the paths of a listing, and the number of skipped entries by reason."""
    listing = Listing(root, links=links, **options)  # type: ignore[arg-type]
    return [os.fsdecode(entry.path) for entry in listing], dict(listing.skipped)


def test_no_link_is_followed_by_default(place: Place) -> None:
    """All links count alike."""
    assert listed(place[0], "no") == (["a.png", "x/b.png"], {"link": 14})
    assert listed(place[0], "no") == listed(place[0], Listing(place[0])._links)


def test_links_within_the_folder_are_followed(place: Place) -> None:
    """Absolute links count by where they lead. A link to a folder above it is a loop."""
    paths, skipped = listed(place[0], "inside")
    assert paths == ["a.png", "l-absolute.png", "l-back.png", "l-file.png", "l-folder/b.png", "x/b.png"]
    assert skipped == {"link": 5, "broken-link": 2, "loop": 3, "other-file": 1}


def test_links_to_anywhere_are_followed(place: Place) -> None:
    """The name of the link decides whether it is an image. Pipes are not opened."""
    paths, skipped = listed(place[0], "anywhere")
    assert set(paths) - set(listed(place[0], "inside")[0]) == {
        *("l-chain.png", "l-out.png", "l-out/c.png", "l-out/deep/d.png", "l-sibling/e.png"),
    }
    assert paths == sorted(paths)
    assert skipped == {"broken-link": 2, "loop": 3, "fifo": 2, "other-file": 1}


def test_the_selection_applies_to_the_names_of_links(place: Place) -> None:
    """Patterns, subfolders and contents are those of other files."""
    root, _ = place
    chosen = Selection(include=["l-*"], exclude=["l-out"])
    paths, skipped = listed(root, "anywhere", selection=chosen)
    assert {"l-text.txt", "l-out.png", "l-sibling/e.png"} <= set(paths)
    assert "a.png" not in paths
    assert skipped["excluded"] == 1
    assert listed(root, "anywhere", recursive=False)[1]["sub-folder"] == 5
    (root / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = listed(root, "inside", selection=Selection(by_content=True))[0]
    assert found == ["a.png", "l-back.png", "l-file.png", "l-text.txt"]


def test_a_folder_is_entered_once_through_links(tmp_path: Path) -> None:
    """Folders that link to each other would otherwise have a path for each of their orders."""
    names = [f"{number:02d}" for number in range(12)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    for one, other in itertools.permutations(names, 2):
        (tmp_path / one / other).symlink_to(tmp_path / other)
    paths, skipped = listed(tmp_path, "inside")
    assert len(paths) == 2 * len(names)
    assert paths == sorted(paths)
    assert listed(tmp_path, "inside") == (paths, skipped)
    assert skipped["loop"] > 100


def test_what_digits_writes_is_skipped_through_links_too(place: Place) -> None:
    """Otherwise the picture of the last run would be an image of the next one."""
    root, outside = place
    own = [root / "x" / "p.png", outside / "deep" / "p.png", outside / "work"]
    for path in (*own[:2], own[2] / "parts" / "q.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (root / "l-work").symlink_to(outside / "work" / "parts")
    (root / "l-own.png").symlink_to("../outside/deep/p.png")
    before = listed(root, "anywhere")[0]
    assert {"x/p.png", "l-folder/p.png", "l-out/deep/p.png", "l-own.png", "l-out/work/parts/q.png"} <= set(before)
    paths, skipped = listed(root, "anywhere", own_files=own)
    assert {path for path in paths if "p.png" in path or "work" in path} == set()
    assert skipped["output"] == 6


def read(root: Path, entry: Entry, links: LinkRule) -> bytes | str:
    """Return the content of a file, or the status of its row."""
    with open_source(root, None, links) as source:
        try:
            return source.read(entry, max_bytes=1000)
        except DecodeError as error:
            return error.status


@pytest.mark.parametrize("links", ["inside", "anywhere"])
def test_every_listed_file_is_read(place: Place, links: LinkRule) -> None:
    """Its content is that of what the link leads to."""
    root, _ = place
    for entry in Listing(root, links=links):
        path = root / os.fsdecode(entry.path)
        assert (
            read(root, entry, links) == path.read_bytes() == path.resolve().relative_to(root.parent).as_posix().encode()
        )
        assert read(root, entry, "no") == (path.read_bytes() if path.resolve() == path else "changed")


def test_a_link_that_is_changed_after_the_listing_reads_nothing_else(place: Place) -> None:
    """Neither a link nor a folder on the way to it may lead to another file."""
    root, outside = place
    entries = {entry.path: entry for entry in Listing(root, links="inside")}
    assert read(root, entries[b"l-folder/b.png"], "inside") == b"in/x/b.png"
    (outside / "b.png").write_bytes(b"in/x/b.png")
    for name, target in (("l-folder", outside), ("l-file.png", outside / "c.png")):
        (root / name).unlink()
        (root / name).symlink_to(target)
    assert read(root, entries[b"l-folder/b.png"], "inside") == "changed"
    assert read(root, entries[b"l-folder/b.png"], "anywhere") == "changed"
    assert read(root, entries[b"l-file.png"], "inside") == "changed"
    (root / "l-file.png").unlink()
    os.link(root / "a.png", outside / "same.png")
    (root / "l-file.png").symlink_to(outside / "same.png")
    assert read(root, entries[b"l-file.png"], "inside") == "changed"
    assert read(root, entries[b"l-file.png"], "anywhere") == b"in/a.png"


def test_a_file_that_may_not_be_read_has_a_row(world_readable: Path) -> None:
    """Its status is denied, as without a link."""
    (world_readable / "a.png").write_bytes(b"")
    (world_readable / "a.png").chmod(0)
    (world_readable / "l.png").symlink_to("a.png")
    with without_root():
        found = list(Listing(world_readable, links="inside"))
        assert [entry.path for entry in found] == [b"a.png", b"l.png"]
        assert read(world_readable, found[1], "inside") == "denied"


def test_a_link_in_a_folder_with_too_long_a_path_is_not_followed(tmp_path: Path) -> None:
    """Its files have rows. Where its links lead cannot be checked."""
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "outside.png").write_bytes(b"")
    directory = os.open(root, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(b"x" * 200, dir_fd=directory)
        above, directory = directory, os.open(b"x" * 200, os.O_RDONLY, dir_fd=directory)
        os.close(above)
    os.close(os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
    os.symlink(tmp_path / "outside.png", "l.png", dir_fd=directory)
    os.symlink("a.png", "m.png", dir_fd=directory)
    os.close(directory)
    for rule in ("no", "inside", "anywhere"):
        paths, skipped = listed(root, rule)
        assert len(paths) == 1
        assert skipped == {"link": 2}
        for name in ("l.png", "m.png"):
            entry = Entry(b"/".join([*[b"x" * 200] * 25, name.encode()]), 0, 0, 0)
            assert read(root, entry, rule) == "changed"


def test_named_files_are_read_through_links(place: Place) -> None:
    """The reasons are those of a listing."""
    root, _ = place
    names = [
        b"l-file.png",
        b"l-out.png",
        b"l-out/c.png",
        b"l-broken.png",
        b"l-folder",
        b"l-folder/b.png",
        b"l-fifo.png",
    ]
    expected: dict[LinkRule, tuple[list[bytes], dict[str, int]]] = {
        "no": ([], {"link": 7}),
        "inside": ([b"l-file.png", b"l-folder/b.png"], {"link": 3, "broken-link": 1, "folder": 1}),
        "anywhere": (
            [b"l-file.png", b"l-folder/b.png", b"l-out.png", b"l-out/c.png"],
            {"broken-link": 1, "folder": 1, "fifo": 1},
        ),
    }
    for links, (paths, skipped) in expected.items():
        listing = FileList(root, names, links=links)
        assert ([entry.path for entry in listing], dict(listing.skipped)) == (paths, skipped)
    assert entry_for(root, b"l-out.png", "anywhere").size == len(b"outside/c.png")
    own = FileList(root, [b"l-out.png"], links="anywhere", own_files=[root.parent / "outside" / "c.png"])
    assert not list(own)
    assert own.skipped == {"output": 1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d/a", "d/b", "d/e/a"]),
            st.sampled_from(
                [".", "..", "../..", "a", "b", "c", "d", "d/e", "../d", "../../o", "../o", "o/s", "/", "../x.png"]
            ),
        ),
        max_size=6,
        unique_by=lambda pair: pair[0],
    )
)
def test_no_tree_of_links_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]]
) -> None:
    """Whatever the links are, each listed file is inside, and the listing ends."""
    base = tmp_path_factory.mktemp("tree")
    root = base / "r"
    for name in ("r/d/e/1.png", "r/2.png", "o/s/3.png", "x.png"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(name.encode())
    for name, target in links:
        (root / name).symlink_to(target)
    found = list(Listing(root, links="inside"))
    assert [entry.path for entry in found] == sorted(entry.path for entry in found)
    assert {b"2.png", b"d/e/1.png"} <= {entry.path for entry in found}
    with DirectoryReader(root, "inside") as reader:
        for entry in found:
            assert read_entry(reader, entry, max_bytes=100).startswith(b"r/")
