"""What this server does beyond the released specification, as `/versions` tells clients.

A feature adds its line when it works, and drops it when it is gone.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

UNSTABLE_FEATURES: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "org.matrix.simplified_msc3575": True,
        "org.matrix.msc3814": True,
        "uk.tcpip.msc4133": True,
        "uk.tcpip.msc4133.stable": True,
    }
)
