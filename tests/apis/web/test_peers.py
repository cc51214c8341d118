"""Whose address counts behind proxies."""

import pytest

from hs.apis.web.client_address import client_behind, plain_address


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("6.6.6.6, 8.8.8.8", "8.8.8.8"),
        ("8.8.8.8, 10.0.0.1, 127.0.0.1", "8.8.8.8"),
        ("8.8.8.8:4711, 192.168.1.1", "8.8.8.8"),
        ("[2a00:1450::1]:443", "2a00:1450::1"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        ("10.0.0.5, 10.0.0.1", "10.0.0.5"),
        ("unknown", "10.9.9.9"),
        ("", "10.9.9.9"),
    ],
)
def test_the_last_public_address_is_the_client(forwarded: str, client: str) -> None:
    assert client_behind(forwarded, "10.9.9.9") == client


def test_ipv4_over_ipv6_is_written_as_ipv4() -> None:
    assert plain_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_address("2001:db8::1") == "2001:db8::1"
