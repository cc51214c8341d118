"""Endpoints that must show what other processes have just written."""

import attrs

from hs.apis.web.auth import NONE
from hs.apis.web.render import Empty
from hs.apis.web.request import query
from hs.apis.web.route import route
from tests.support.web import client_for


@attrs.frozen
class Since:
    since: str | None = query(default=None)


@attrs.frozen
class FreshApi:
    @route("GET", "/fresh", auth=NONE, fresh=lambda request: request.since is None)
    async def fresh(self, request: Since) -> Empty:
        return Empty()


@attrs.define
class Watched:
    """Counts how often a process was brought to what others had written."""

    count: int = 0

    async def see_all(self) -> None:
        self.count += 1


async def test_an_endpoint_says_which_requests_must_know_what_others_wrote() -> None:
    watched = Watched()
    client = client_for(FreshApi(), freshness=watched)

    assert (await client.get("/fresh?since=s1")).status == 200
    before = watched.count
    assert (await client.get("/fresh")).status == 200

    assert (before, watched.count) == (0, 1)
