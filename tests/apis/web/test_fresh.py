"""Endpoints whose response must include what other processes have just committed."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Empty
from hs.apis.web.request import query
from hs.apis.web.route import route
from tests.support.web import client_for


@attrs.frozen
class FreshRequest:
    since: str | None = query(default=None)


@attrs.frozen
class FreshApi:
    @route("GET", "/fresh", auth=NONE, fresh=lambda request: request.since is None)
    async def fresh(self, request: FreshRequest) -> Empty:
        return Empty()


@attrs.define
class CountingFreshness:
    """A Freshness that counts its calls."""

    count: int = 0

    async def catch_up(self) -> None:
        self.count += 1


async def test_only_requests_selected_by_fresh_wait_for_replication() -> None:
    freshness = CountingFreshness()
    client = client_for(FreshApi(), freshness=freshness)

    assert (await client.get("/fresh?since=s1")).status == 200
    before = freshness.count
    assert (await client.get("/fresh")).status == 200

    assert (before, freshness.count) == (0, 1)
