"""Settings of the exchange with other servers."""

from pathlib import Path

import pytest

from tests.settings.conftest import Load, Refused

KEY = "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"


@pytest.mark.parametrize(
    ("written", "version"),
    [("1", "1"), ("1.0", "1"), ("1.2", "1.2"), ('"1.3"', "1.3"), ("1.3", "1.3")],
)
def test_tls_version_is_read(load: Load, written: str, version: str) -> None:
    settings = load(f"federation_client_minimum_tls_version: {written}")

    assert settings.federation.federation_client_minimum_tls_version == version


@pytest.mark.parametrize("written", ["1.4", "2", "true", "[]"])
def test_unknown_tls_version_is_refused(refused: Refused, written: str) -> None:
    message = refused(f"federation_client_minimum_tls_version: {written}")

    assert "is not a TLS version" in message


def test_times_are_read(load: Load) -> None:
    requests = load("federation: {client_timeout: 10s, max_short_retries: 1}").peer_requests

    assert requests.client_timeout == 10_000
    assert requests.max_short_retries == 1
    assert requests.destination_max_retry_interval == 7 * 86_400_000


def test_server_must_have_time_to_respond(refused: Refused) -> None:
    assert "federation.client_timeout" in refused("federation: {client_timeout: 0s}")


def test_whitelist_may_be_empty_or_missing(load: Load) -> None:
    assert load("").federation.federation_domain_whitelist is None
    assert load("federation_domain_whitelist: []").federation.federation_domain_whitelist == ()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_unusable_authority_is_refused(
    refused: Refused, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_text(content)

    assert f"cannot read certificates from {path}" in refused(
        f"federation_custom_ca_list: [{path}]"
    )


def test_key_servers_are_read(load: Load) -> None:
    (server,) = load(
        "server_name: b.org\n"
        f"trusted_key_servers: [{{server_name: a.org, verify_keys: {{'ed25519:a': {KEY}}}}}]"
    ).key_exchange.trusted_key_servers

    assert server.server_name == "a.org"
    assert server.verify_keys["ed25519:a"].base64 == KEY


def test_matrix_org_is_the_notary_by_default(load: Load) -> None:
    (server,) = load("").key_exchange.trusted_key_servers

    assert server.server_name == "matrix.org"
    assert load("trusted_key_servers: []").key_exchange.trusted_key_servers == ()


def test_key_servers_in_the_old_form_are_read(load: Load) -> None:
    old = f"perspectives: {{servers: {{a.org: {{verify_keys: {{'ed25519:a': {{key: {KEY}}}}}}}}}}}"

    (server,) = load(old).key_exchange.trusted_key_servers

    assert server.server_name == "a.org"
    assert server.verify_keys["ed25519:a"].base64 == KEY


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("trusted_key_servers: [{}]", "server_name is missing"),
        ("trusted_key_servers: [{server_name: 'a b'}]", "is not a server name"),
        ("trusted_key_servers: [{server_name: a.org, keys: {}}]", "unknown key"),
        (
            "trusted_key_servers: [{server_name: a.org, verify_keys: {'ed25519:a': x}}]",
            "public key ed25519:a",
        ),
        ("federation_verify_certificates: false", "anyone could impersonate matrix.org"),
        ("old_signing_keys: {'ed25519:a': {key: x, expired_ts: 1}}", "public key ed25519:a"),
    ],
)
def test_unsafe_or_malformed_keys_are_refused(refused: Refused, written: str, problem: str) -> None:
    assert problem in refused(written)


def test_key_server_without_proof_is_accepted_if_the_administrator_says_so(load: Load) -> None:
    load(
        "server_name: b.org\nfederation_verify_certificates: false\n"
        "trusted_key_servers: [{server_name: a.org, accept_keys_insecurely: true}]"
    )
