"""Remote device lists in several processes, of which one or two own them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from hs.core.ids import UserID
from hs.core.streams import DEVICE_LISTS
from hs.storage.database import Database
from tests.services.federation.users.remote_lists import (
    ANN,
    FAR,
    GET_DEVICES,
    QUERY_KEYS,
    USER,
    Near,
    open_near,
    share_room,
    wait_for,
)
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.federation import PeerNetwork

Pair = tuple[Near, Near]


@pytest.fixture(params=[["main"], ["reader", "main"], ["main", "reader"]])
async def pair(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """The owner of all other streams, and a process that may own device lists too."""
    network, neighbours = PeerNetwork(), Neighbourhood()
    names = ("main", "reader")
    main, follower = (
        worker_settings(SETTINGS, *order, device_lists=tuple(request.param))
        for order in (names, names[::-1])
    )
    async with open_near(network, database, main, neighbours) as owner:
        async with open_near(network, database, follower, neighbours) as reader:
            yield owner, reader


async def test_any_process_takes_updates_and_shows_kept_lists(pair: Pair) -> None:
    owner, reader = pair
    far = await share_room(owner)
    token = await owner.devices.device(ANN, "HERS")

    assert await reader.query(token) == {"PHONE"}
    since = (await reader.devices.sync(ANN, "HERS"))["next_batch"]
    await reader.lists.updates.update_device(FAR, far.update("TABLET"))

    assert await reader.query(token) == await owner.query(token) == {"PHONE", "TABLET"}
    changed: list[UserID] = (await reader.devices.sync(ANN, "HERS", since))["device_lists"][
        "changed"
    ]
    assert changed == [USER]
    assert (far.count(GET_DEVICES), far.count(QUERY_KEYS)) == (1, 0)


async def test_owner_fetches_lists_that_become_stale_through_another_process(pair: Pair) -> None:
    owner, reader = pair
    far = await share_room(owner)
    token = await owner.devices.device(ANN, "HERS")
    assert await reader.query(token) == {"PHONE"}
    far.devices = ["TABLET"]

    async with AsyncExitStack() as stack:
        for near in pair:
            if near.server.process.base.ownership.writes(DEVICE_LISTS):
                duty = near.server.process.duties("stale device lists")
                await stack.enter_async_context(duty)
        await reader.lists.updates.update_device(FAR, far.update("TABLET", 99))
        await wait_for(reader.stale_users, [])

    assert await reader.query(token) == {"TABLET"}
    assert (far.count(GET_DEVICES), far.count(QUERY_KEYS)) == (2, 0)
