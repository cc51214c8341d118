"""The versions of the specification that this server supports."""

from typing import Any, Final

import attrs

from hs.apis.client.server.unstable_features import features_of
from hs.apis.web.auth import NONE
from hs.apis.web.route import route
from hs.settings.sections.proposals import ProposalSettings
from hs.settings.sections.rooms import RoomSettings

VERSIONS: Final = (
    "r0.0.1",
    "r0.1.0",
    "r0.2.0",
    "r0.3.0",
    "r0.4.0",
    "r0.5.0",
    "r0.6.0",
    "r0.6.1",
    *(f"v1.{minor}" for minor in range(1, 20)),
)


@attrs.frozen
class VersionsApi:
    """The endpoint of versions."""

    proposals: ProposalSettings = ProposalSettings()
    rooms: RoomSettings = RoomSettings()

    @route("GET", "/_matrix/client/versions", auth=NONE)
    async def get_versions(self) -> dict[str, Any]:
        """Spec: client-server API, API standards."""
        features = features_of(self.proposals, self.rooms)
        return {"versions": VERSIONS, "unstable_features": features}
