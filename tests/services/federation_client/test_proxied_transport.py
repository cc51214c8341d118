"""Requests to other servers through the processes that may send them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_server

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
SENDERS = ("sender1", "sender2")
PATH = "/_matrix/federation/v1/version"
VERSION = {"server": {"name": "far", "version": "1"}}
LARGE = bytes(range(256)) * 1024


@attrs.frozen(eq=False)
class Scene:
    """A process that reaches nobody, and two that may send requests, each with its own network."""

    main: FederatedServer
    networks: tuple[PeerNetwork, ...]
    neighbours: Neighbourhood

    def requests(self) -> list[list[str]]:
        """Return the URIs that each sender has requested."""
        return [network.uris(FAR) for network in self.networks]


@asynccontextmanager
async def open_scene(database: Database) -> AsyncIterator[Scene]:
    neighbours, blind = Neighbourhood(), PeerNetwork()
    networks = (PeerNetwork(), PeerNetwork())
    for network in networks:
        ScriptedPeer(FAR, network, {f"GET {PATH}": (200, VERSION), "GET /large": (200, LARGE)})

    def settings(name: str) -> Settings:
        made = worker_settings(SETTINGS, name, "main", *SENDERS)
        return attrs.evolve(made, workers=attrs.evolve(made.workers, peer_processes=SENDERS))

    async with (
        open_server(
            NEAR, blind, database, settings=settings("main"), neighbours=neighbours
        ) as main,
        open_server(
            NEAR, networks[0], database, settings=settings("sender1"), neighbours=neighbours
        ),
        open_server(
            NEAR, networks[1], database, settings=settings("sender2"), neighbours=neighbours
        ),
    ):
        yield Scene(main, networks, neighbours)


async def test_request_goes_through_one_of_the_named_processes(database: Database) -> None:
    async with open_scene(database) as scene:
        assert await scene.main.client.get(FAR, PATH) == VERSION

        assert sorted(scene.requests()) == [[], [PATH]]


async def test_body_is_received_in_parts(database: Database) -> None:
    async with (
        open_scene(database) as scene,
        scene.main.client.stream(FAR, "/large", timeout_s=10, max_bytes=1 << 20) as response,
    ):
        parts = [part async for part in response.parts]

    assert response.status == 200
    assert len(parts) > 1
    assert b"".join(parts) == LARGE


async def test_body_that_is_not_read_to_its_end_is_closed(database: Database) -> None:
    async with open_scene(database) as scene:
        async with scene.main.client.stream(
            FAR, "/large", timeout_s=10, max_bytes=1 << 20
        ) as response:
            async for part in response.parts:
                assert part
                break

        assert await scene.main.client.get(FAR, PATH) == VERSION


async def test_faults_of_the_other_server_are_passed_on(database: Database) -> None:
    async with open_scene(database) as scene:
        for network in scene.networks:
            network.down.add(FAR)

        with pytest.raises(RemoteFault, match="connection refused"):
            await scene.main.client.get(FAR, PATH)


async def test_another_process_sends_while_one_is_down(database: Database) -> None:
    async with open_scene(database) as scene:
        await scene.main.client.get(FAR, PATH)
        used = [bool(uris) for uris in scene.requests()].index(True)
        scene.neighbours.sender.disconnect(SENDERS[used])

        assert await scene.main.client.get(FAR, PATH) == VERSION
        assert all(scene.requests())


async def test_server_does_not_count_as_failing_while_no_process_can_send(
    database: Database,
) -> None:
    async with open_scene(database) as scene:
        for name in SENDERS:
            scene.neighbours.sender.disconnect(name)

        for _ in range(2):
            with pytest.raises(RemoteFault, match="no process could send"):
                await scene.main.client.get(FAR, PATH)
