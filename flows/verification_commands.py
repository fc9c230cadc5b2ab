"""The commands `verify` and `repair`."""

from dataclasses import asdict
from pathlib import Path

from digits import verification
from digits.config import artifact_root
from digits.store import Store
from flows.terminal import DrawnProgress, print_json, print_table, say

DAMAGED = 4


def verify(artifacts: Path | None, *, json: bool) -> int:
    """Check everything and print what was found; give the exit code."""
    found = verification.verify(Store(artifact_root(artifacts)), progress=DrawnProgress())
    if json:
        print_json(asdict(found))
    else:
        print_table(("kind", "checked", "sound", "damaged"), found.table())
        _tell(found.damaged)
    return DAMAGED if found.damaged else 0


def repair(artifacts: Path | None, *, json: bool) -> int:
    """Mend what can be and print what was done; give the exit code."""
    say("a model is trained again where its file is damaged, which takes as long as it took")
    done = verification.repair(Store(artifact_root(artifacts)), progress=DrawnProgress())
    if json:
        print_json(asdict(done))
    else:
        say("\n".join(done.repaired) or "nothing was made again")
        _tell(done.left)
    return DAMAGED if done.left else 0


def _tell(damaged: list[verification.Damage]) -> None:
    for one in damaged:
        say(f"{one.path}: {one.wrong}; {one.remedy}")
