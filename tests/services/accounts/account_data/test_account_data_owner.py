"""Account data that is written by a process which does not own the stream."""

import pytest
import trio

from hs.core.errors import NotFound
from hs.core.ids import RoomID, UserID
from hs.core.streams import ACCOUNT_DATA
from hs.repl.inproc import InProcHub
from hs.repl.inproc_rpc import InProcSender
from hs.repl.rpc_client import RpcClients
from hs.repl.rpc_http import RpcEndpoint
from hs.repl.rpc_server import RpcServer
from hs.services.accounts.account_data.account_data import (
    AccountDataService,
    AccountDataWriter,
    LocalAccountDataWriter,
)
from hs.storage.database import Database
from tests.support.accounts import open_accounts

ALICE = UserID("@alice:test")
ROOM = RoomID("!room:test")


async def test_process_reads_its_own_writes_through_the_owner(database: Database) -> None:
    hub, sender = InProcHub(), InProcSender()
    async with (
        open_accounts(database, hub=hub, instance="main") as owner,
        open_accounts(database, hub=hub, instance="worker") as worker,
    ):
        server = RpcServer(lambda: [owner.account_data_stream])
        server.register(AccountDataWriter, LocalAccountDataWriter(owner.account_data_stream))
        sender.connect("main", RpcEndpoint(server, "secret"))
        clients = RpcClients(sender, "secret", worker.feed, {ACCOUNT_DATA.name: ACCOUNT_DATA})
        remote = AccountDataService(database, worker.feed, clients.proxy(AccountDataWriter, "main"))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            assert await remote.all(ALICE) == []
            await remote.put(ALICE, None, "a", {"n": 1})
            await remote.put_tag(ALICE, ROOM, "m.favourite", {})
            await remote.put_tag(ALICE, ROOM, "m.lowpriority", {"order": 1})
            await remote.remove_tag(ALICE, ROOM, "m.favourite")

            assert await remote.content(ALICE, None, "a") == b'{"n":1}'
            assert await remote.tags(ALICE, ROOM) == {"m.lowpriority": {"order": 1}}
            assert await owner.account_data.tags(ALICE, ROOM) == {"m.lowpriority": {"order": 1}}
            nursery.cancel_scope.cancel()


async def test_get_and_tags_see_writes_that_have_not_been_replicated(
    database: Database,
) -> None:
    async with (
        open_accounts(database, hub=InProcHub(), instance="main") as owner,
        open_accounts(database, hub=InProcHub(), instance="worker") as disconnected,
    ):
        assert await disconnected.account_data.all(ALICE) == []
        await owner.account_data.put(ALICE, None, "a", {"n": 1})
        await owner.account_data.put_tag(ALICE, ROOM, "m.favourite", {})

        assert await disconnected.account_data.get(ALICE, None, "a") == b'{"n":1}'
        assert await disconnected.account_data.tags(ALICE, ROOM) == {"m.favourite": {}}
        await owner.account_data.delete(ALICE, None, "a")
        with pytest.raises(NotFound):
            await disconnected.account_data.get(ALICE, None, "a")
