"""The commands `verify` and `repair`."""

from dataclasses import asdict
from pathlib import Path

from digits.cli.output import DrawnProgress, print_json, print_table, say
from digits.maintenance import integrity
from digits.maintenance import repair as repair_module
from digits.settings import artifact_root
from digits.store.artifacts import Store

DAMAGED = 4


def verify(artifacts: Path | None, *, json: bool) -> int:
    """Check everything and print what was found; give the exit code."""
    found = integrity.verify(Store(artifact_root(artifacts)), progress=DrawnProgress())
    if json:
        print_json(asdict(found))
    else:
        print_table(("kind", "checked", "sound", "damaged"), found.table())
        _tell(found.damaged)
    return DAMAGED if found.damaged else 0


def repair(artifacts: Path | None, *, json: bool) -> int:
    """Mend what can be and print what was done; give the exit code."""
    say("a model is trained again where its file is damaged, which takes as long as it took")
    done = repair_module.repair(Store(artifact_root(artifacts)), progress=DrawnProgress())
    if json:
        print_json(asdict(done))
    else:
        say("\n".join(done.repaired) or "nothing was made again")
        _tell(done.left)
    return DAMAGED if done.left else 0


def _tell(damaged: list[integrity.Damage]) -> None:
    for one in damaged:
        say(f"{one.path}: {one.wrong}; {one.remedy}")
