"""The first start in an empty directory, in the two steps that the README describes."""

import os
import sys
from pathlib import Path

import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import ROOT, ServerProcess, free_ports

pytestmark = pytest.mark.process
COMMAND = [sys.executable, "-c", "from hs.cli.main import run; run()"]


async def test_server_starts_in_empty_directory_and_registers_administrator(tmp_path: Path) -> None:
    [port] = free_ports(1)
    folder = tmp_path / "data"
    options = ["--data-dir", str(folder), "--server-name", "first.test", "--port", str(port)]
    server = ServerProcess("first", port, [], tmp_path / "first.log", options)
    server.start()
    try:
        config = str(folder / "homeserver.yaml")
        user = ["-u", "alice", "-p", "correct horse", "--admin"]
        registered = await trio.run_process(
            [*COMMAND, "register-user", "-c", config, *user],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert registered.stdout == b"Created @alice:first.test.\n", registered.stderr

        async with HttpClient(port) as client:
            answer = await client.post(
                "/_matrix/client/v3/login",
                {
                    "type": "m.login.password",
                    "identifier": {"type": "m.id.user", "user": "alice"},
                    "password": "correct horse",
                },
            )
            assert answer.status == 200, answer.body
            client.token = answer.json["access_token"]
            whoami = await client.get("/_matrix/client/v3/account/whoami")
        assert whoami.json["user_id"] == "@alice:first.test"
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()
