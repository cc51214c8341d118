"""A Redis and a PostgreSQL of this server alone, which the supervisor starts and stops.

Both listen on UNIX sockets in folders that only their owner may enter, and nowhere else. Redis
keeps nothing on disk. PostgreSQL's data is in the data directory, and is yours to back up.
"""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from hs.lib.files import make_folders
from hs.nursery.supervision.forks import Forks, Life
from hs.nursery.supervision.requests import ProgramRequest
from hs.settings.errors import Problem, SettingsError

START_S: Final = 60.0
LOOK_S: Final = 0.05
_DEBIAN_PROGRAMS: Final = Path("/usr/lib/postgresql")
_SYSTEM_USER: Final = "postgres"
_DATABASE: Final = "hs"
_READY_LINE: Final = 7  # of postmaster.pid
_MORE_CONNECTIONS: Final = 10


@attrs.frozen(kw_only=True)
class PrivateServer:
    """A program that the processes need: how to run it, and whether it is ready."""

    request: ProgramRequest
    prepare: Callable[[], None]
    is_ready: Callable[[], bool]

    async def start(self, forks: Forks) -> Life:
        """Start the program and wait until it accepts connections. Raises: SettingsError."""
        await trio.to_thread.run_sync(self.prepare)
        life = await forks.run_program(self.request)
        with trio.move_on_after(START_S):
            while not (life.has_ended or self.is_ready()):
                with trio.move_on_after(LOOK_S):
                    await life.ended.wait()
            if not life.has_ended:
                life.is_ready = True
                return life
        cause = life.cause() if life.has_ended else f"not ready within {START_S:.0f} s"
        remedy = "see its output above"
        raise SettingsError([Problem(key=self.request.name, message=cause, remedy=remedy)])


def private_redis(folder: Path) -> tuple[PrivateServer, dict[str, Any]]:
    """Return a Redis with its socket in a folder, and the setting `redis`.

    Raises: SettingsError.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise _missing("redis", "redis-server", "apt-get install redis-server")
    path = folder / "redis.sock"
    options = {"port": "0", "unixsocket": path.name, "unixsocketperm": "600", "save": ""}
    options |= {
        "appendonly": "no",
        "dir": ".",
        "daemonize": "no",
        "logfile": "",
        "loglevel": "warning",
    }
    request = ProgramRequest(
        name="redis",
        command=[
            program,
            *(part for key, value in options.items() for part in (f"--{key}", value)),
        ],
        folder=str(folder),
        stop_signal=signal.SIGTERM,
    )
    server = PrivateServer(
        request=request, prepare=lambda: path.unlink(missing_ok=True), is_ready=path.is_socket
    )
    return server, {"enabled": True, "path": str(path)}


def private_postgres(folder: Path, connections: int) -> tuple[PrivateServer, dict[str, Any]]:
    """Return a PostgreSQL with its data in a folder, and the setting `database`.

    `connections` is how many the processes open. Raises: SettingsError.
    """
    programs = _postgres_programs()
    user = _SYSTEM_USER if os.getuid() == 0 else None
    options = {"listen_addresses": "", "unix_socket_directories": str(folder)}
    options |= {"max_connections": str(connections + _MORE_CONNECTIONS), "logging_collector": "off"}
    request = ProgramRequest(
        name="postgres",
        command=[
            str(programs / "postgres"), "-D", str(folder / "data"),
            *(part for key, value in options.items() for part in ("-c", f"{key}={value}")),
        ],
        folder=str(folder),
        stop_signal=signal.SIGINT,  # "fast": ends transactions of clients that are still there
        user=user,
    )  # fmt: skip
    server = PrivateServer(
        request=request,
        prepare=lambda: _prepare_postgres(programs, folder, user),
        is_ready=lambda: _accepts_connections(folder / "data" / "postmaster.pid"),
    )
    args = {"host": str(folder), "user": _DATABASE, "database": _DATABASE}
    return server, {"name": "psycopg2", "args": args}


def _postgres_programs() -> Path:
    newest = sorted(
        _DEBIAN_PROGRAMS.glob("*/bin/postgres"), key=lambda path: _number(path.parts[-3])
    )
    on_path = shutil.which("postgres")
    if on_path is None and not newest:
        raise _missing("--postgres", "PostgreSQL's server", "apt-get install postgresql")
    return Path(str(on_path)).resolve().parent if on_path else newest[-1].parent


def _number(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


def _missing(key: str, program: str, command: str) -> SettingsError:
    problem = Problem(key=key, message=f"{program} is not installed", remedy=f"`{command}`")
    return SettingsError([problem])


def _prepare_postgres(programs: Path, folder: Path, user: str | None) -> None:
    """Create the database at the first start. Raises: SettingsError."""
    make_folders(folder)
    if user is not None:
        shutil.chown(folder, user)
        # It may enter the data directory but not list it; the files there are the owner's alone.
        folder.parent.chmod(folder.parent.stat().st_mode | stat.S_IXOTH)
    if (folder / "data" / "PG_VERSION").exists():
        return
    unfinished = folder / "new"
    shutil.rmtree(unfinished, ignore_errors=True)
    data = ["-D", str(unfinished)]
    initdb = [str(programs / "initdb"), *data, "-U", _DATABASE, "-A", "trust", "--locale=C"]
    _run([*initdb, "-E", "UTF8", "--no-instructions"], folder, user)
    single = [str(programs / "postgres"), "--single", *data, "postgres"]
    _run(single, folder, user, f"CREATE DATABASE {_DATABASE}\n".encode())
    unfinished.rename(folder / "data")


def _run(command: list[str], folder: Path, user: str | None, given: bytes = b"") -> None:
    try:
        subprocess.run(
            command, input=given, cwd=folder, user=user, group=user, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"") or b""
        message = output.decode("utf-8", "replace").strip().splitlines()[-1:] or [str(error)]
        remedy = "run hs as a user other than root, or choose a --data-dir that postgres may enter"
        problem = Problem(key="--postgres", message=message[0], remedy=remedy)
        raise SettingsError([problem]) from None


def _accepts_connections(pid_file: Path) -> bool:
    try:
        lines = pid_file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return len(lines) > _READY_LINE and lines[_READY_LINE].strip() == "ready"
