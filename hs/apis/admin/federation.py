"""The servers that this one federates with, as in Synapse's administration API."""

from typing import Any, Final, Literal

import attrs

from hs.apis.web.request import path, query
from hs.apis.web.route import route
from hs.core.errors import Forbidden, InvalidParam
from hs.core.requester import Requester
from hs.services.federation.outbound.destination_lists import (
    DestinationLists,
    DestinationRecord,
    Page,
)

MAX_LIMIT: Final = 1000
_PATH: Final = "/_synapse/admin/v1/federation/destinations"


@attrs.frozen
class ListDestinationsRequest:
    """GET /_synapse/admin/v1/federation/destinations."""

    requester: Requester
    start: int = query(name="from", default=0)
    limit: int = query(default=100)
    order_by: Literal[
        "destination",
        "retry_last_ts",
        "retry_interval",
        "failure_ts",
        "last_successful_stream_ordering",
    ] = query(default="destination")
    direction: Literal["f", "b"] = query(name="dir", default="f")


@attrs.frozen
class DestinationRequest:
    """GET /_synapse/admin/v1/federation/destinations/{destination}."""

    requester: Requester
    destination: str = path()


@attrs.frozen
class ListDestinationRoomsRequest:
    """GET /_synapse/admin/v1/federation/destinations/{destination}/rooms."""

    requester: Requester
    destination: str = path()
    start: int = query(name="from", default=0)
    limit: int = query(default=100)
    direction: Literal["f", "b"] = query(name="dir", default="f")


@attrs.frozen(eq=False)
class AdminFederationApi:
    """Endpoints about destinations, for server administrators."""

    destinations: DestinationLists

    @route("GET", _PATH)
    async def list_destinations(self, request: ListDestinationsRequest) -> dict[str, Any]:
        """Return a page of the destinations."""
        _check_admin(request.requester)
        page = _page(request)
        found, total = await self.destinations.list(request.order_by, page)
        destinations = [_destination(each) for each in found]
        return {"destinations": destinations, "total": total, **_next(page, len(found), total)}

    @route("GET", f"{_PATH}/{{destination}}")
    async def get_destination(self, request: DestinationRequest) -> dict[str, Any]:
        """Return one destination."""
        _check_admin(request.requester)
        return _destination(await self.destinations.get(request.destination))

    @route("GET", f"{_PATH}/{{destination}}/rooms")
    async def list_rooms(self, request: ListDestinationRoomsRequest) -> dict[str, Any]:
        """Return a page of the rooms that are shared with a destination."""
        _check_admin(request.requester)
        page = _page(request)
        found, total = await self.destinations.rooms(request.destination, page)
        rooms = [{"room_id": room_id, "stream_ordering": sent_id} for room_id, sent_id in found]
        return {"rooms": rooms, "total": total, **_next(page, len(found), total)}

    @route("POST", f"{_PATH}/{{destination}}/reset_connection")
    async def reset_connection(self, request: DestinationRequest) -> dict[str, Any]:
        """Have a destination that fails tried again."""
        _check_admin(request.requester)
        await self.destinations.reset(request.destination)
        return {}


def _check_admin(requester: Requester) -> None:
    if not requester.is_admin:
        raise Forbidden("You are not a server administrator")


def _page(request: ListDestinationsRequest | ListDestinationRoomsRequest) -> Page:
    if request.start < 0 or request.limit < 0:
        raise InvalidParam("from and limit must not be negative")
    return Page(request.start, min(request.limit, MAX_LIMIT), request.direction == "b")


def _next(page: Page, count: int, total: int) -> dict[str, str]:
    end = page.start + count
    return {"next_token": str(end)} if end < total else {}


def _destination(found: DestinationRecord) -> dict[str, Any]:
    return {
        "destination": found.server,
        "retry_last_ts": found.failed_ms,
        "retry_interval": found.interval_ms,
        "failure_ts": found.since_ms,
        "last_successful_stream_ordering": found.sent_id,
    }
