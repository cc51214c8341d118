"""Listeners: addresses, sockets, resources, and what must not be exposed."""

from pathlib import Path

import pytest

from tests.settings.conftest import Load, Refused
from tests.support.certificates import make_certificates

REPLICATION = "listeners: [{port: 9093, %s type: http, resources: [{names: [replication]}]}]\n"


def test_a_single_address_may_be_written_in_either_form(load: Load) -> None:
    [first, second] = load(
        "listeners: [{port: 1, bind_address: 127.0.0.1}, {port: 2, bind_addresses: ['::1']}]"
    ).listeners

    assert first.bind_addresses == ("127.0.0.1",)
    assert second.bind_addresses == ("::1",)


def test_without_addresses_it_listens_everywhere(load: Load) -> None:
    [listener] = load("listeners: [{port: 1, resources: [{names: client}]}]").listeners

    assert listener.bind_addresses == ("::", "0.0.0.0")
    assert listener.names == {"client"}


def test_a_listener_without_resources_is_noticed(load: Load) -> None:
    notices = load("listeners: [{port: 8008}]").notices

    assert [notice.key for notice in notices] == ["listeners.0"]


@pytest.mark.parametrize("written", ["'660'", "660", "0660", "0o660", "'0o660'"])
def test_a_socket_has_a_mode(load: Load, tmp_path: Path, written: str) -> None:
    [listener] = load(f"listeners: [{{path: hs.sock, mode: {written}}}]").listeners

    assert (listener.path, listener.mode) == (tmp_path / "hs.sock", 0o660)
    assert listener.is_private()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{}", "either a port or a path"),
        ("{port: 1, path: x}", "either a port or a path"),
        ("{port: 1, type: replication}", "no longer exist"),
        ("{port: 1, type: gopher}", "not a type of listener"),
        ("{port: 1, resources: [{names: [clients]}]}", "not a resource"),
        ("{port: 70000}", "too large"),
        ("{path: x, mode: 999}", "not a file mode"),
        ("{path: x, mode: 1777}", "not a file mode"),
        ("{path: x, mode: true}", "not a file mode"),
        ("{path: x, mode: rw}", "not a file mode"),
    ],
)
def test_a_wrong_listener_is_refused(refused: Refused, written: str, told: str) -> None:
    assert told in refused(f"listeners: [{written}]")


def test_tls_needs_its_files(refused: Refused) -> None:
    told = refused("listeners: [{port: 8448, tls: true}]")

    assert "tls_certificate_path" in told
    assert "tls_private_key_path" in told


def test_a_certificate_and_key_that_do_not_fit_are_refused(
    refused: Refused, load: Load, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path)
    listener = "listeners: [{port: 8448, tls: true}]\n"
    fitting = f"tls_certificate_path: {made.certificate}\ntls_private_key_path: {made.key}\n"
    wrong = f"tls_certificate_path: {made.authority}\ntls_private_key_path: {made.key}\n"

    told = refused(listener + wrong)

    assert load(listener + fitting).listeners[0].tls
    assert "tls_certificate_path" in told
    assert str(made.authority) in told


@pytest.mark.parametrize("written", ["matrix.example.org", "ftp://a", "https://a/?b", "https://["])
def test_where_clients_reach_the_server_is_an_address(refused: Refused, written: str) -> None:
    assert "public_baseurl: " in refused(f'public_baseurl: "{written}"\n')


def test_unprotected_replication_without_address_stays_on_this_machine(load: Load) -> None:
    [listener] = load(REPLICATION % "").listeners

    assert listener.is_private()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "8.8.8.8"])
def test_unprotected_replication_on_a_public_address_is_refused(
    refused: Refused, address: str
) -> None:
    assert "worker_replication_secret" in refused(REPLICATION % f"bind_address: '{address}',")


def test_a_secret_or_an_explicit_word_allows_it(load: Load) -> None:
    public = REPLICATION % "bind_address: '0.0.0.0',"

    for allowed in ("worker_replication_secret: s", "unsafe_replication_without_secret: true"):
        assert load(public + allowed).listeners[0].bind_addresses == ("0.0.0.0",)


def test_two_listeners_in_one_place_are_refused(load: Load, refused: Refused) -> None:
    told = refused(
        "listeners: [{port: 1, bind_address: 127.0.0.1}, {port: 1, bind_address: 127.0.0.1}]"
    )

    assert "listeners.1" in told
    assert "port 1 of 127.0.0.1" in told
    load("listeners: [{port: 1, bind_address: 127.0.0.1}, {port: 1, bind_address: '::1'}]")
