"""A server whose SQLite file is removed or replaced while it serves."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nursery.test_signals import wait_until
from tests.support.servers.processes import Cluster, ServerProcess, make_cluster

pytestmark = pytest.mark.process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server of one process with SQLite, running."""
    cluster = make_cluster("T0", tmp_path, None, None, {"enable_metrics": False})
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill_all()


def call(
    process: ServerProcess, method: str, path: str, body: Any = None, token: str = ""
) -> tuple[int, Any]:
    """Send a request; return the status and the JSON of the response."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(process.url + path, content, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def registered_user(process: ServerProcess) -> str:
    account = {"username": "alice", "password": "secret", "auth": {"type": "m.login.dummy"}}
    status, session = call(process, "POST", "/_matrix/client/v3/register", account)
    assert status == 200, session
    return str(session["access_token"])


def test_no_message_is_acknowledged_while_the_database_file_is_away(
    cluster: Cluster, tmp_path: Path
) -> None:
    main = cluster.processes["main"]
    token = registered_user(main)
    status, room = call(main, "POST", "/_matrix/client/v3/createRoom", {}, token)
    assert status == 200
    send = f"/_matrix/client/v3/rooms/{room['room_id']}/send/m.room.message"
    message = {"msgtype": "m.text", "body": "hello"}
    path, aside = tmp_path / "homeserver.db", tmp_path / "aside.db"
    assert call(main, "GET", "/health/ready")[0] == 200
    path.rename(aside)

    statuses = [call(main, "PUT", f"{send}/{n}", message, token)[0] for n in range(5)]
    ready, health = call(main, "GET", "/health/ready")

    assert (statuses, ready) == ([503] * 5, 503)
    assert "was removed while it was in use" in health["checks"]["database"]
    wait_until(lambda: "retrying" in main.tail() or "restarting" in main.tail())
    log = main.log.read_text()
    assert log.count("CRITICAL") == 1
    assert "Traceback" not in log

    aside.rename(path)
    wait_until(lambda: call(main, "PUT", f"{send}/again", message, token)[0] == 200)
    assert call(main, "GET", "/health/ready")[0] == 200
    assert main.stop() == 0
