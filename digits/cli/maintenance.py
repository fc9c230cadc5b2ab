"""Commands `doctor`, `verify` and `repair`."""

import sys
from typing import TYPE_CHECKING

from digits.cli import runtime
from digits.cli.app import Artifacts, AsJson, NoProgress, Quiet, Verbose
from digits.cli.status import NEEDS_ATTENTION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from digits.maintenance.doctor import Api
    from digits.maintenance.integrity import Damage

DAMAGED = 4
"""Exit code if something is damaged, the same as for a `StoreError`."""


def doctor(artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Show what is installed, where artifacts are, and what is wrong, with its remedy. Nothing is changed.

    The exit code is 8 if anything is wrong.
    """
    from digits.cli.output import print_attention, print_json, print_pairs
    from digits.maintenance.doctor import describe, diagnose, find_problems
    from digits.settings import artifact_root

    found = diagnose(lambda: artifact_root(artifacts), read_api)
    problems = find_problems(found)
    if json:
        print_json(found.as_record())
    else:
        print_attention(problems)
        print_pairs(f"Digits {found.digits}", describe(found))
    sys.exit(NEEDS_ATTENTION if problems else 0)


def read_api() -> "Api":
    """Return the Prefect API that commands would use.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    from digits.maintenance.doctor import Api
    from digits.server.api import hide_secrets

    address, problem = runtime.find_api()
    return Api(hide_secrets(address), problem) if address else Api(None, None)


def verify(
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Check the hashes of everything under the artifact root; list what is damaged and its remedy.

    The exit code is 4 if anything is damaged.
    """
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    from digits.cli.output import print_json, print_table
    from digits.maintenance import integrity
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import TerminalProgress

    found = integrity.verify(Store(artifact_root(artifacts)), progress=TerminalProgress())
    if json:
        print_json(found.as_record())
    else:
        print_table(("kind", "checked", "sound", "damaged"), found.table())
        _print_damage(found.damaged)
    sys.exit(DAMAGED if found.damaged else 0)


def repair(
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Repair what is damaged, as far as it can be restored or recomputed; list the rest.

    The exit code is 4 if anything is still damaged.
    """
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    from digits.cli.output import print_json
    from digits.maintenance import repair as repair_module
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import TerminalProgress, print_notice

    print_notice("a damaged model is trained again, which takes as long as the original training")
    done = repair_module.repair(Store(artifact_root(artifacts)), progress=TerminalProgress())
    if json:
        print_json(done.as_record())
    else:
        print_notice("\n".join(done.repaired) or "nothing was repaired")
        _print_damage(done.left)
    sys.exit(DAMAGED if done.left else 0)


def _print_damage(damaged: "Iterable[Damage]") -> None:
    """Print what is damaged, also with `--quiet`."""
    sys.stderr.writelines(f"{one.path}: {one.problem}; {one.remedy}\n" for one in damaged)
