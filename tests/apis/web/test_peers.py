"""The address of a client behind proxies."""

import pytest

from hs.apis.web.client_address import forwarded_client, normalized_address


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
def test_client_is_the_last_public_address(forwarded: str, client: str) -> None:
    assert forwarded_client(forwarded, "10.9.9.9") == client


def test_ipv4_mapped_address_is_normalized() -> None:
    assert normalized_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert normalized_address("2001:db8::1") == "2001:db8::1"
