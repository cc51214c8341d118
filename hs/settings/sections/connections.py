"""Settings of clients' connections: trusted reverse proxies."""

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import NETWORKS, optional


@attrs.frozen(kw_only=True)
class ConnectionSettings:
    """The connections of clients to the listeners of a process."""

    trusted_proxies: tuple[str, ...] | None = setting(
        optional(NETWORKS),
        None,
        "Addresses or networks of the reverse proxies whose X-Forwarded-For is believed on "
        "listeners with `x_forwarded: true`. If missing, every peer with a private address is "
        "believed, for the address that it adds itself. Synapse does not have this key.",
    )
