"""The unstable features that `/versions` announces.

A flag is added with its feature and removed with it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hs.settings.sections.proposals import ProposalSettings
from hs.settings.sections.rooms import RoomSettings

UNSTABLE_FEATURES: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "fi.mau.msc2659.stable": True,
        "org.matrix.e2e_cross_signing": True,
        "org.matrix.msc2285.stable": True,
        "org.matrix.msc2432": True,
        "org.matrix.msc3030": True,
        "org.matrix.msc3391": True,
        "org.matrix.msc3440.stable": True,
        "org.matrix.msc3771": True,
        "org.matrix.msc3773": True,
        "org.matrix.msc3814": True,
        "org.matrix.msc3912": True,
        "org.matrix.msc3916.stable": True,
        "org.matrix.msc3827.stable": True,
        "org.matrix.msc3881": True,
        "org.matrix.msc3981": True,
        "org.matrix.msc4151": True,
        "org.matrix.msc4155": True,
        "org.matrix.msc4169": True,
        "org.matrix.msc4222": True,
        "org.matrix.msc4293": True,
        "org.matrix.msc4354": True,
        "org.matrix.msc4380": True,
        "org.matrix.msc4380.stable": True,
        "org.matrix.msc4429": True,
        "org.matrix.simplified_msc3575": True,
        "uk.half-shot.msc2666.query_mutual_rooms": True,
        "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
        "uk.tcpip.msc4133": True,
        "uk.tcpip.msc4133.stable": True,
        "uk.timedout.msc4323": True,
    }
)


def features_of(proposals: ProposalSettings, rooms: RoomSettings) -> dict[str, bool]:
    """Return all flags; flags of configurable features are true if the feature is enabled."""
    has_delayed_events = proposals.max_event_delay_duration is not None
    encrypted_rooms = rooms.encryption_enabled_by_default_for_room_type
    return {
        **UNSTABLE_FEATURES,
        # Whether new rooms are encrypted by default, per preset.
        "io.element.e2ee_forced.private": encrypted_rooms != "off",
        "io.element.e2ee_forced.public": encrypted_rooms == "all",
        "io.element.e2ee_forced.trusted_private": encrypted_rooms != "off",
        "org.matrix.msc4028": proposals.experimental_features.encrypted_pushes,
        "org.matrix.msc4140": has_delayed_events,
        "org.matrix.msc4140.stable": has_delayed_events,
        "org.matrix.msc4143": bool(proposals.matrix_rtc.transports),
        "org.matrix.msc4306": proposals.experimental_features.thread_subscriptions,
    }
