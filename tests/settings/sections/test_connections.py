"""Connections: trusted proxies and limits."""

import pytest

from tests.settings.conftest import Load, Refused


def test_proxies_and_limits_are_read(load: Load) -> None:
    settings = load(
        "trusted_proxies: [127.0.0.1, 172.18.0.0/16]\nmax_connections_per_address: 0\n"
        "max_buffered_bytes: 64M\nunlimited_addresses: []"
    ).connections

    assert settings.trusted_proxies == ("127.0.0.1", "172.18.0.0/16")
    assert settings.max_connections_per_address == 0
    assert settings.max_buffered_bytes == 64 << 20
    assert settings.unlimited_addresses == ()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("max_buffered_bytes: 1M", "max_buffered_bytes"),
        ("max_connections: 0", "max_connections"),
        ("trusted_proxies: [proxy.example.org]", "trusted_proxies.0"),
    ],
)
def test_values_with_which_nothing_would_work_are_refused(
    refused: Refused, text: str, key: str
) -> None:
    assert key.partition(".")[0] in str(refused(text))
