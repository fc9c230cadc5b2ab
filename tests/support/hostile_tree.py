"""Hostile folder of images, and the table that is expected of it."""

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = [
    b"a\nb.png",
    b"a\r\nb.png",
    b"a\rb.png",
    b"tab\t.png",
    b"nul-like\x01\x1b[31m.png",
    b'quote".png',
    b'"quoted".png',
    b"'single'.png",
    b"comma,comma.png",
    b"semi;colon.png",
    b"semi;=1+1.png",
    b'semi,";=1+1".png',
    b"tab\t=1+1.png",
    "\uff1d1\uff0b1.png".encode(),
    "semi;\uff20x.png".encode(),
    b"back\\slash.png",
    b"=1+1.png",
    b"+x.png",
    b"-x.png",
    b"@SUM(A1).png",
    b"%41.png",
    b"100%.png",
    b"\xff\xfe.png",
    b"half \xc3.png",
    "ü \u2028 \u202e \u0085 \ufeff 🖋.png".encode(),
    b"NA.png",
    b"null.png",
    b" space .png",
    b".hidden.png",
    b"...png",
    b"UPPER.PNG",
    b"#hash.png",
    b"\xed\xa0\x80.png",
    b"n" * 251 + b".png",
    b"=formula\n/@folder/\xe9.png",
    b"\"dir,ectory\"/'x'.png",
]
"""Names of regular files that contain images."""

ZEROES = os.makedev(1, 5)
"""Device number of /dev/zero, which never ends."""

DEPTH = 25
LONG = b"x" * 200


@dataclass
class Tree:
    """A hostile folder, its surroundings and the expected results.

    Args:
        root: the folder.
        outside: directory beside the folder that must not be read.
        statuses: expected status of each row, by the bytes of the path.
        skipped: number of files without a row, by reason.
    """

    root: Path
    outside: Path
    statuses: dict[bytes, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def plant(cls, place: Path) -> "Tree":
        """Fill a directory with hostile files."""
        tree = cls(place / "in", place / "outside")
        tree.root.mkdir()
        tree.outside.mkdir()
        tree._name()
        tree._nest()
        tree._link()
        tree._disguise()
        tree._put_specials()
        tree._forbid()
        return tree

    @property
    def canary(self) -> Path:
        """Image outside the folder that links in the folder point to."""
        return self.outside / "canary.png"

    def _path(self, name: bytes) -> Path:
        path = self.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def _name(self) -> None:
        for number, name in enumerate(NAMES):
            picture(number).save(self._path(name), "PNG")
            self.statuses[name] = "ok"

    def _nest(self) -> None:
        """Make a path longer than the kernel accepts."""
        (self.root / "deep").mkdir()
        directory = os.open(self.root / "deep", os.O_RDONLY)
        for _ in range(DEPTH):
            os.mkdir(LONG, dir_fd=directory)
            above, directory = directory, os.open(LONG, os.O_RDONLY, dir_fd=directory)
            os.close(above)
        with os.fdopen(os.open("x.png", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=directory), "wb") as file:
            picture(100).save(file, "PNG")
        os.close(directory)
        self.statuses[b"/".join([b"deep", *[LONG] * DEPTH, b"x.png"])] = "ok"

    def _link(self) -> None:
        picture(200).save(self.canary)
        targets = {
            "in.png": "NA.png",
            "out.png": str(self.canary),
            "up.png": "../outside/canary.png",
            "dangling.png": "nowhere",
            "self.png": "self.png",
            "ping.png": "pong.png",
            "pong.png": "ping.png",
            "folder": str(self.outside),
            "loop": ".",
            "etc.png": "/etc/passwd",
            "system": "/proc",
        }
        for name, target in targets.items():
            (self.root / name).symlink_to(target)
            self._skip("link")

    def _disguise(self) -> None:
        """Add files whose content does not match their extension."""
        picture(101).save(self._path(b"jpeg in disguise.png"), "JPEG")
        self.statuses[b"jpeg in disguise.png"] = "ok"
        contents = {
            b"empty.png": (b"", "not-an-image"),
            b"text.jpg": (b"=cmd|' /C calc'!A0,\"\n", "not-an-image"),
            b"document.gif": (b"%!PS-Adobe\n", "unsupported"),
            b"cut.png": (self._path(b"NA.png").read_bytes()[:-40], "unreadable"),
        }
        for name, (content, status) in contents.items():
            self._path(name).write_bytes(content)
            self.statuses[name] = status
        for other in ("picture.txt", "png", "no extension"):
            picture(102).save(self.root / other, "PNG")
            self._skip("other-file")

    def _put_specials(self) -> None:
        os.mkfifo(self.root / "fifo.png")
        self._skip("fifo")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(self.root / "socket.png"))
        self._skip("socket")
        with suppress(PermissionError):  # only root may make one
            os.mknod(self.root / "device.png", stat.S_IFCHR | 0o666, ZEROES)
            self._skip("device")
        (self.root / "directory.png").mkdir()

    def _forbid(self) -> None:
        picture(103).save(self._path(b"forbidden.png"))
        self.statuses[b"forbidden.png"] = "denied"
        self._path(b"forbidden.png").chmod(0)
        picture(104).save(self._path(b"closed/x.png"))
        self._path(b"closed").chmod(0)
        self._skip("unreadable-folder")

    def open_up(self) -> None:
        """Restore the permissions, so that the folder can be deleted."""
        with suppress(FileNotFoundError):
            self._path(b"closed").chmod(0o755)


def picture(seed: int) -> Image.Image:
    """Draw a random image in MNIST's format for a seed."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:24, 9:20] = np.random.default_rng(seed).integers(100, 256, (19, 11))
    return Image.fromarray(pixels)
