"""`hs register-user` against a small HTTP server that plays the registration API."""

import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hs.cli.main import cli
from tests.support.servers.certificates import make_certificates

SECRET = "sesame"


class Registrar(BaseHTTPRequestHandler):
    """A fake registration API that records the bodies it receives."""

    received: list[dict[str, Any]]

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""

    def do_GET(self) -> None:
        self._respond(200, {"nonce": "n1"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append(body)
        role = "admin" if body["admin"] else "notadmin"
        text = "\0".join([body["nonce"], body["username"], body["password"], role])
        mac = hmac.new(SECRET.encode(), text.encode(), hashlib.sha1).hexdigest()
        if body["mac"] != mac:
            self._respond(403, {"errcode": "M_FORBIDDEN", "error": "HMAC incorrect"})
        elif body["username"] == "taken":
            self._respond(400, {"errcode": "M_USER_IN_USE", "error": "User ID already taken."})
        else:
            self._respond(200, {"user_id": f"@{body['username']}:example.org"})

    def _respond(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a fake server, and the list of bodies it receives."""
    received: list[dict[str, Any]] = []
    handler = type("OwnRegistrar", (Registrar,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", received
        http.shutdown()
        thread.join()


def register(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(cli, ["register-user", *arguments], input=text)


def test_administrator_is_created(server: tuple[str, list[dict[str, Any]]]) -> None:
    url, received = server

    result = register(url, "-k", SECRET, "-u", "alice", "-p", "pw", "--admin")

    assert result.exit_code == 0, result.output
    assert "Created @alice:example.org." in result.output
    assert received[0]["admin"] is True


def test_url_and_secret_are_read_from_the_configuration(
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


def test_password_is_read_from_a_file(
    server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, received = server
    (tmp_path / "pw").write_text("from a file\n")

    register(url, "-k", SECRET, "-u", "a", "--no-admin", "--password-file", str(tmp_path / "pw"))

    assert received[0]["password"] == "from a file"


@pytest.mark.parametrize(("content", "message"), [(b"caf\xe9\n", "UTF-8"), (b"\nx\n", "is empty")])
def test_file_without_password_is_a_usage_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "pw").write_bytes(content)

    result = register(
        "http://127.0.0.1:1", "-k", SECRET, "-u", "a", "-A", "--password-file", str(tmp_path / "pw")
    )

    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    "url", ["localhost:8008", "ftp://localhost", "http://", "http://[::1", "x"]
)
def test_invalid_url_is_a_usage_error(url: str) -> None:
    result = register(url, "-k", SECRET, "-u", "a", "-p", "p", "-A")

    assert result.exit_code == 2
    assert f"{url} is not an http or https URL; write it like http" in result.output


@pytest.mark.parametrize(
    "response", [b"HTTP/1.1 200 OK\r\n\r\n{}", b"+PONG\r\n", b"", b"HTTP/1.1 1"]
)
def test_other_kind_of_server_is_reported(response: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=respond_once, args=(listener, response))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        result = register(url, "-k", SECRET, "-u", "a", "-p", "p", "-A")
        thread.join()

    assert result.exit_code == 1
    assert (
        "does not respond like a Matrix server" in result.output or "Cannot reach" in result.output
    )


def respond_once(listener: socket.socket, response: bytes) -> None:
    """Send these bytes to the first client."""
    peer, _ = listener.accept()
    with peer:
        peer.recv(65536)
        peer.sendall(response)


def test_certificate_of_a_local_listener_is_not_verified(
    tmp_path: Path,
) -> None:
    handler = type("OwnRegistrar", (Registrar,), {"received": []})
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        threading.Thread(target=http.serve_forever, args=(0.02,)).start()
        config = tmp_path / "homeserver.yaml"
        config.write_text(
            f"server_name: example.org\nregistration_shared_secret: {SECRET}\n"
            f"tls_certificate_path: {certificates.certificate}\ntls_private_key_path: "
            f"{certificates.key}\n"
            f"listeners: [{{port: {http.server_port}, bind_addresses: [127.0.0.1], tls: true, "
            "resources: [{names: [client]}]}]\n"
        )

        local = register("-c", str(config), "-u", "a", "-p", "p", "-A")
        by_url = register(
            f"https://127.0.0.1:{http.server_port}", "-k", SECRET, "-u", "a", "-p", "p", "-A"
        )
        http.shutdown()

    assert "Created @a:example.org." in local.output
    assert by_url.exit_code == 1
    assert "certificate" in by_url.output


def test_wrong_secret_is_reported(server: tuple[str, list[dict[str, Any]]]) -> None:
    result = register(server[0], "-k", "wrong", "-u", "a", "-p", "p", "-A")

    assert result.exit_code == 1
    assert "HMAC incorrect (M_FORBIDDEN)" in result.output


def test_existing_user_is_accepted_with_exists_ok(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    default = register(server[0], "-k", SECRET, "-u", "taken", "-p", "p", "-A")
    lenient = register(server[0], "-k", SECRET, "-u", "taken", "-p", "p", "-A", "--exists-ok")

    assert (default.exit_code, lenient.exit_code) == (1, 0)


def test_unreachable_server_is_reported() -> None:
    result = register("http://127.0.0.1:1", "-k", SECRET, "-u", "a", "-p", "p", "-A")

    assert result.exit_code == 1
    assert "Is the server running?" in result.output
