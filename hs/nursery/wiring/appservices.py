"""Application services: who they are, what they are told, and what they are asked."""

import attrs

from hs.nursery.foundation import Foundation
from hs.services.appservices.identities import ServiceIdentities
from hs.services.appservices.registry import ServiceRegistry


@attrs.frozen(eq=False, kw_only=True)
class Registered:
    """The services as requesters; built before accounts."""

    registry: ServiceRegistry
    identities: ServiceIdentities


def wire_registered(ground: Foundation) -> Registered:
    """Build what knows the services."""
    settings = ground.settings
    registry = ServiceRegistry(settings.appservices.registrations, settings.server.server_name)
    return Registered(
        registry=registry, identities=ServiceIdentities(registry, ground.database, ground.feed)
    )
