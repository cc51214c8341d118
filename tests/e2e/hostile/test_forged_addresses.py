"""A client cannot escape limits per address by writing X-Forwarded-For itself."""

import http.client
import json
from typing import Any

import pytest

from tests.support.servers.processes import MANY, free_ports, running_cluster

pytestmark = pytest.mark.process

BURST = 3


def statuses_of_logins(port: int, forwarded: str) -> list[int]:
    """Log in as unknown users; `forwarded` has a place for the number of the attempt."""
    statuses = []
    for number in range(BURST + 2):
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": f"nobody{number}"},
            "password": "p",
        }
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"X-Forwarded-For": forwarded.format(number)}
        connection.request("POST", "/_matrix/client/v3/login", json.dumps(login), headers)
        statuses.append(connection.getresponse().status)
        connection.close()
    return statuses


@pytest.mark.parametrize(
    ("proxies", "forged", "honest"),
    [
        ({}, "8.8.8.{0}, 10.0.0.5", "6.6.6.6, 8.8.8.{0}"),
        ({}, "8.8.8.{0}, 127.0.0.1, 127.0.0.1", "8.8.8.{0}"),
        ({"trusted_proxies": ["127.0.0.1", "10.1.0.0/16"]}, "8.8.8.{0}, 10.0.0.5, 10.1.0.1",
         "6.6.6.6, 8.8.8.{0}, 10.1.0.1"),
    ],
    ids=["private client", "local client", "two proxies"],
)  # fmt: skip
def test_client_with_private_address_is_limited_whatever_it_claims(
    proxies: dict[str, Any], forged: str, honest: str
) -> None:
    few = {"per_second": 0.0001, "burst_count": BURST}
    (port,) = free_ports(1)
    listener = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "x_forwarded": True,
        "resources": [{"names": ["client"]}],
    }
    limits = {"rc_login": {"address": few, "account": MANY, "failed_attempts": MANY}}
    with running_cluster("T0", None, None, listeners=[listener], **limits, **proxies):
        claimed = statuses_of_logins(port, forged)
        different = statuses_of_logins(port, honest)

    assert claimed == [403] * BURST + [429] * 2
    assert different == [403] * (BURST + 2)
