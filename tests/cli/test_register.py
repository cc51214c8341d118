"""Creating users on a running server, played here by a small HTTP server."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hs.cli.main import cli

SECRET = "sesame"


class Registrar(BaseHTTPRequestHandler):
    """Answers as the registration API does; remembers what it was asked."""

    received: list[dict[str, Any]]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(200, {"nonce": "n1"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append(body)
        role = "admin" if body["admin"] else "notadmin"
        text = "\0".join([body["nonce"], body["username"], body["password"], role])
        mac = hmac.new(SECRET.encode(), text.encode(), hashlib.sha1).hexdigest()
        if body["mac"] != mac:
            self._answer(403, {"errcode": "M_FORBIDDEN", "error": "HMAC incorrect"})
        elif body["username"] == "taken":
            self._answer(400, {"errcode": "M_USER_IN_USE", "error": "User ID already taken."})
        else:
            self._answer(200, {"user_id": f"@{body['username']}:example.org"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server's URL, and the bodies it received."""
    received: list[dict[str, Any]] = []
    handler = type("OwnRegistrar", (Registrar,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", received
        http.shutdown()
        thread.join()


def register(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(cli, ["register-user", *arguments], input=text)


def test_an_administrator_is_created(server: tuple[str, list[dict[str, Any]]]) -> None:
    url, received = server

    result = register(url, "-k", SECRET, "-u", "alice", "-p", "pw", "--admin")

    assert result.exit_code == 0, result.output
    assert "Created @alice:example.org." in result.output
    assert received[0]["admin"] is True


def test_address_and_secret_come_from_the_configuration(
    server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, _ = server
    config = tmp_path / "homeserver.yaml"
    port = url.rpartition(":")[2]
    config.write_text(
        f"server_name: example.org\nregistration_shared_secret: {SECRET}\n"
        f"listeners: [{{port: {port}, bind_addresses: ['0.0.0.0'], "
        "resources: [{names: [client]}]}]\n"
    )

    result = register("-c", str(config), text="bob\npw\npw\nn\n")

    assert "Created @bob:example.org." in result.output


def test_the_password_may_stand_in_a_file(
    server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, received = server
    (tmp_path / "pw").write_text("from a file\n")

    register(url, "-k", SECRET, "-u", "a", "--no-admin", "--password-file", str(tmp_path / "pw"))

    assert received[0]["password"] == "from a file"


def test_a_wrong_secret_is_told(server: tuple[str, list[dict[str, Any]]]) -> None:
    result = register(server[0], "-k", "wrong", "-u", "a", "-p", "p", "-A")

    assert result.exit_code == 1
    assert "HMAC incorrect (M_FORBIDDEN)" in result.output


def test_an_existing_user_is_fine_when_asked_so(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    plain = register(server[0], "-k", SECRET, "-u", "taken", "-p", "p", "-A")
    relaxed = register(server[0], "-k", SECRET, "-u", "taken", "-p", "p", "-A", "--exists-ok")

    assert (plain.exit_code, relaxed.exit_code) == (1, 0)


def test_an_unreachable_server_is_told() -> None:
    result = register("http://127.0.0.1:1", "-k", SECRET, "-u", "a", "-p", "p", "-A")

    assert result.exit_code == 1
    assert "Is the server running?" in result.output
