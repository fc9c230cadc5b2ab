"""Sandbox of a systemd unit: run a command with its system calls and its capabilities, without systemd.

python -m tests.support.sandbox deploy/digits-worker.service COMMAND...

It applies SystemCallFilter, RestrictAddressFamilies, RestrictNamespaces, CapabilityBoundingSet, NoNewPrivileges and
UMask of the unit. Its mounts (ProtectSystem, PrivateTmp, ...) are not applied, because that requires systemd.
"""

import ctypes
import ctypes.util
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

ALLOW, EPERM = 0x7FFF0000, 0x00050000 | errno.EPERM
EQUAL, MASKED_EQUAL = 4, 7
"""Comparisons of libseccomp."""
NEW_NAMESPACES = 0x7E020080
"""Flags of clone and unshare that create a namespace."""
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def is_available() -> bool:
    """Return whether libseccomp and systemd-analyze are installed."""
    found = ctypes.util.find_library("seccomp") is not None
    return found and subprocess.run(["which", "systemd-analyze"], capture_output=True, check=False).returncode == 0


def read_settings(unit: Path) -> dict[str, str]:
    """Return the settings of a unit; of repeated ones, the last."""
    lines = (line.partition("=") for line in unit.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in lines if equals}


def system_calls(group: str) -> set[str]:
    """Return the names of the system calls of a group such as `@system-service`."""
    found = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    names = {
        line.strip() for line in found.stdout.splitlines()[1:] if line.strip() and not line.strip().startswith("#")
    }
    calls = {name for name in names if not name.startswith("@")}
    return calls.union(*(system_calls(name) for name in names - calls))


def enter(unit: Path) -> None:
    """Restrict this process, and those that it starts, as a unit does."""
    settings = read_settings(unit)
    calls = system_calls("@default").union(*map(system_calls, settings["SystemCallFilter"].split()))
    os.umask(int(settings["UMask"], 8))
    system = ctypes.CDLL(None, use_errno=True)
    if settings["CapabilityBoundingSet"] == "":
        for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
            system.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _filter(calls, settings["RestrictAddressFamilies"].split())


def _filter(calls: set[str], families: list[str]) -> None:
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    library.seccomp_init.restype = ctypes.c_void_p
    made = ctypes.c_void_p(library.seccomp_init(EPERM))
    numbers = [socket.AddressFamily[family].value for family in families]
    rules = {"socket": [_Comparison(0, EQUAL, number, 0) for number in numbers]}
    rules["clone"] = rules["unshare"] = [_Comparison(0, MASKED_EQUAL, NEW_NAMESPACES, 0)]
    for name in calls - {"clone3"}:
        number = library.seccomp_syscall_resolve_name(name.encode())
        for comparison in rules.get(name, [None]):
            given = [] if comparison is None else [comparison]
            library.seccomp_rule_add_array(made, ALLOW, number, len(given), (_Comparison * len(given))(*given))
    # glibc uses clone3, whose flags cannot be examined, and falls back to clone if there is no such call.
    library.seccomp_rule_add_array(
        made, 0x00050000 | errno.ENOSYS, library.seccomp_syscall_resolve_name(b"clone3"), 0, None
    )
    if library.seccomp_load(made):
        raise OSError("the filter of system calls could not be loaded")


if __name__ == "__main__":
    enter(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command to confine
