"""Settings of outgoing HTTP requests: blocked networks, proxies, user agent."""

from typing import Any

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import BOOLEAN, NETWORKS, STRING, STRINGS, ConfigLocation, Kind, optional

# Networks that are not part of the public internet.
PRIVATE_NETWORKS = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "169.254.0.0/16",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::1/128",
    "fe80::/10",
    "fc00::/7",
    "2001:db8::/32",
    "ff00::/8",
    "fec0::/10",
)
# Blocked regardless of the settings: unspecified addresses, which would reach this machine.
UNSPECIFIED_NETWORKS = ("0.0.0.0/8", "::/128")


def _read_blocked(value: Any, at: ConfigLocation) -> tuple[str, ...]:
    if value is None:
        # A key whose entries are all commented out must not open the private networks.
        at.note("is empty, so the default applies; write [] to block no networks")
        return PRIVATE_NETWORKS
    return NETWORKS.read(value, at)


BLOCKED = Kind("list of IP networks", _read_blocked, NETWORKS.schema)


@attrs.frozen(kw_only=True)
class OutgoingSettings:
    """Outgoing requests; the proxy keys take precedence over environment variables."""

    ip_range_blacklist: tuple[str, ...] = setting(
        BLOCKED,
        PRIVATE_NETWORKS,
        "IP networks to which no requests are sent, also if a host name resolves to them.",
        shown=["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "…"],
    )
    ip_range_whitelist: tuple[str, ...] = setting(
        NETWORKS, (), "Exceptions to `ip_range_blacklist`.", shown=[]
    )
    http_proxy: str | None = setting(
        optional(STRING),
        None,
        "Forward proxy for http; by default taken from the variable `http_proxy`.",
    )
    https_proxy: str | None = setting(
        optional(STRING),
        None,
        "Forward proxy for https; by default taken from the variable `https_proxy`.",
    )
    no_proxy_hosts: tuple[str, ...] | None = setting(
        optional(STRINGS),
        None,
        "Hosts, domains and IP networks reached without proxy; by default taken from the variable "
        "`no_proxy`.",
    )
    user_agent_suffix: str | None = setting(
        optional(STRING), None, "Text appended to the User-Agent of outgoing requests."
    )
    use_insecure_ssl_client_just_for_testing_do_not_use: bool = setting(
        BOOLEAN,
        False,
        "Do not verify TLS certificates; for tests only, since anyone can then impersonate any "
        "server.",
    )
