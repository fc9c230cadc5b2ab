"""The system on a real PostgreSQL, behind a password."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_system import RunningSystem
from tests.support.server import free_port

pytestmark = pytest.mark.postgres

PASSWORD = "operator:a secret of the tests"  # noqa: S105 - of a server that lives for a minute


def command(name: str) -> str:
    """Give where a command of PostgreSQL is; Debian keeps them off the path."""
    places = [shutil.which(name), *map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))]
    found = [place for place in places if place]
    if not found:
        pytest.skip(f"there is no {name} here (Debian: postgresql)")
    return found[-1]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL of our own on a free port; give its address as Prefect wants it."""
    place, port = tmp_path_factory.mktemp("postgres"), free_port()
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    for directory in (place, *place.parents[:2]):
        directory.chmod(0o755)
    os.chown(place, account.pw_uid, account.pw_gid)
    as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    data = place / "data"
    subprocess.run(
        [command("initdb"), "-D", data, "-A", "trust", "-U", "prefect", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=place,
        **as_user,
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
    control = [command("pg_ctl"), "-D", str(data), "-w"]
    start = [*control, "-l", str(place / "log"), "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=place, **as_user)
    yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd=place, **as_user)


@pytest.fixture(scope="module")
def system(own_root: Path, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Have a system on it."""
    home = tmp_path_factory.mktemp("home")
    secrets = (("PREFECT_SERVER_DATABASE_CONNECTION_URL", database), ("PREFECT_SERVER_API_AUTH_STRING", PASSWORD))
    running = RunningSystem(own_root, home / "state", home, free_port(), secrets)
    running.up()
    yield running
    running.down()


def test_everything_is_in_postgres_and_behind_the_password(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    """A folder is predicted through worker and command; no SQLite is made, and no secret is written down."""
    assert "PostgreSQL" in system.status()["server"]
    out = tmp_path / "table.csv"
    assert system.digits("predict", str(folder), "--out", str(out), "--deploy", "--json")["state"] == "Completed"
    assert out.is_file()
    assert not (system.state / "prefect" / "prefect.db").exists()
    given = Path(f"/proc/{system.process('worker')}/environ").read_bytes()
    assert b"PREFECT_SERVER_" not in given, "a run has no need of the database's password"
    written = [path for path in system.state.rglob("*") if path.is_file()]
    assert written
    assert not any(b"a secret of the tests" in path.read_bytes() for path in written)


def test_without_the_password_nothing_is_told(system: RunningSystem, folder: Path) -> None:
    """The error says which variable to set, at each command."""
    stranger = RunningSystem(system.root, system.state, system.home, system.port)
    for arguments in (("up",), ("predict", str(folder), "--deploy")):
        assert "PREFECT_API_AUTH_STRING" in stranger.digits(*arguments, code=7)
    assert any("password" in sentence for sentence in stranger.status()["attention"])
