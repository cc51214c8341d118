"""Listeners: addresses, sockets, resources, TLS, and protection of replication."""

from pathlib import Path

import pytest

from tests.settings.conftest import Load, Refused
from tests.support.servers.certificates import make_certificates

REPLICATION = "listeners: [{port: 9093, %s type: http, resources: [{names: [replication]}]}]\n"


def test_single_address_is_accepted_under_either_key(load: Load) -> None:
    [first, second] = load(
        "listeners: [{port: 1, bind_address: 127.0.0.1}, {port: 2, bind_addresses: ['::1']}]"
    ).listeners

    assert first.bind_addresses == ("127.0.0.1",)
    assert second.bind_addresses == ("::1",)


def test_listener_without_addresses_listens_on_all(load: Load) -> None:
    [listener] = load("listeners: [{port: 1, resources: [{names: client}]}]").listeners

    assert listener.bind_addresses == ("::", "0.0.0.0")
    assert listener.names == {"client"}


def test_listener_without_resources_is_reported(load: Load) -> None:
    notices = load("listeners: [{port: 8008}]").notices

    assert [notice.key for notice in notices] == ["listeners.0"]


@pytest.mark.parametrize("written", ["'660'", "660", "0660", "0o660", "'0o660'"])
def test_socket_mode_is_read_as_octal(load: Load, tmp_path: Path, written: str) -> None:
    [listener] = load(f"listeners: [{{path: hs.sock, mode: {written}}}]").listeners

    assert (listener.path, listener.mode) == (tmp_path / "hs.sock", 0o660)
    assert listener.is_private()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{}", "either a port or a path"),
        ("{port: 1, path: x}", "either a port or a path"),
        ("{port: 1, type: replication}", "no longer supported"),
        ("{port: 1, type: gopher}", "not a type of listener"),
        ("{port: 1, resources: [{names: [clients]}]}", "not a resource"),
        ("{port: 70000}", "too large"),
        ("{path: x, mode: 999}", "not a file mode"),
        ("{path: x, mode: 1777}", "not a file mode"),
        ("{path: x, mode: true}", "not a file mode"),
        ("{path: x, mode: rw}", "not a file mode"),
    ],
)
def test_invalid_listener_is_rejected(refused: Refused, written: str, message: str) -> None:
    assert message in refused(f"listeners: [{written}]")


def test_tls_requires_certificate_and_key(refused: Refused) -> None:
    message = refused("listeners: [{port: 8448, tls: true}]")

    assert "tls_certificate_path" in message
    assert "tls_private_key_path" in message


def test_mismatched_certificate_and_key_are_rejected(
    refused: Refused, load: Load, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    listener = "listeners: [{port: 8448, tls: true}]\n"
    key = f"tls_private_key_path: {certificates.key}\n"
    matching = f"tls_certificate_path: {certificates.certificate}\n{key}"
    mismatched = f"tls_certificate_path: {certificates.authority}\n{key}"

    message = refused(listener + mismatched)

    assert load(listener + matching).listeners[0].tls
    assert "tls_certificate_path" in message
    assert str(certificates.authority) in message


@pytest.mark.parametrize("written", ["matrix.example.org", "ftp://a", "https://a/?b", "https://["])
def test_public_baseurl_that_is_no_url_is_rejected(refused: Refused, written: str) -> None:
    assert "public_baseurl: " in refused(f'public_baseurl: "{written}"\n')


def test_unprotected_replication_without_address_is_bound_to_loopback(load: Load) -> None:
    [listener] = load(REPLICATION % "").listeners

    assert listener.is_private()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "8.8.8.8"])
def test_unprotected_replication_on_a_public_address_is_rejected(
    refused: Refused, address: str
) -> None:
    assert "worker_replication_secret" in refused(REPLICATION % f"bind_address: '{address}',")


def test_replication_on_a_public_address_is_allowed_by_secret_or_explicit_key(load: Load) -> None:
    public = REPLICATION % "bind_address: '0.0.0.0',"

    for allowed in ("worker_replication_secret: s", "unsafe_replication_without_secret: true"):
        assert load(public + allowed).listeners[0].bind_addresses == ("0.0.0.0",)


def test_two_listeners_on_the_same_address_and_port_are_rejected(
    load: Load, refused: Refused
) -> None:
    message = refused(
        "listeners: [{port: 1, bind_address: 127.0.0.1}, {port: 1, bind_address: 127.0.0.1}]"
    )

    assert "listeners.1" in message
    assert "port 1 of 127.0.0.1" in message
    load("listeners: [{port: 1, bind_address: 127.0.0.1}, {port: 1, bind_address: '::1'}]")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("port: 1, bind_addresses: ['0.0.0.0']", "port: 1, bind_addresses: ['127.0.0.1']"),
        ("port: 1", "port: 1, bind_addresses: ['127.0.0.1'], type: metrics"),
        ("port: 1, bind_addresses: ['::1']", "port: 1, bind_addresses: ['::']"),
        ("port: 1, bind_addresses: [localhost]", "port: 1, bind_addresses: ['127.0.0.1']"),
        ("path: hs.sock", "path: hs.sock"),
    ],
)
def test_listeners_in_one_place_are_rejected(refused: Refused, first: str, second: str) -> None:
    assert "already used by listeners.0" in refused(f"listeners: [{{{first}}}, {{{second}}}]")


def test_listener_that_names_an_address_twice_is_rejected(refused: Refused) -> None:
    message = refused("listeners: [{port: 1, bind_addresses: ['127.0.0.1', localhost]}]")

    assert "port 1 of localhost is already used by listeners.0" in message


def test_both_families_may_share_a_port(load: Load) -> None:
    load("listeners: [{port: 1, bind_addresses: ['::']}, {port: 1, bind_address: '0.0.0.0'}]")
