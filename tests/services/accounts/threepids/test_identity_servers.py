"""Identity servers are asked as the specification has it, and their answers are not trusted."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.core.errors import Forbidden, MatrixError, RemoteFault, ServerNotTrusted
from hs.core.ids import ServerName, UserID
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import verify_json
from hs.lib.aio import Bridge
from hs.nursery.wiring.http_clients import address_rules
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.settings.sections.outgoing import PRIVATE_NETWORKS
from hs.storage.database import Database
from tests.support.identity_server import (
    TOKEN,
    V2,
    IdentityServer,
    open_identity_server,
    trusting_client,
)
from tests.support.sites import Page, make_certificate

BOB = UserID("@bob:test")
SIGNER = Signer(ServerName("test"), SigningKey.from_seed("a", bytes(range(32))))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def there(certificate: Path) -> AsyncIterator[IdentityServer]:
    async with open_identity_server(certificate) as opened:
        yield opened


@pytest.fixture
async def servers(
    database: Database, bridge: Bridge, certificate: Path
) -> AsyncIterator[IdentityServers]:
    async with trusting_client(bridge, certificate) as client:
        yield IdentityServers(database, client, SIGNER)


async def test_a_binding_is_remembered_and_withdrawn_where_it_is(
    servers: IdentityServers, there: IdentityServer
) -> None:
    await servers.bind(BOB, there.name, TOKEN, "good", "secret")

    assert await servers.unbind(BOB, "email", "bob@x.test")
    assert not await servers.unbind(BOB, "email", "bob@x.test")
    body, _ = there.unbound[0]
    assert body == {"mxid": BOB, "threepid": {"medium": "email", "address": "bob@x.test"}}
    assert len(there.unbound) == 1


async def test_withdrawing_is_signed_by_this_server(
    servers: IdentityServers, there: IdentityServer
) -> None:
    await servers.unbind(BOB, "email", "bob@x.test", there.name)

    body, header = there.unbound[0]
    scheme, _, rest = header.partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    request = {
        "method": "POST",
        "uri": f"{V2}/3pid/unbind",
        "origin": "test",
        "destination": there.name,
        "content": body,
        "signatures": {"test": {fields["key"]: fields["sig"]}},
    }
    assert (scheme, fields["origin"], fields["destination"]) == ("X-Matrix", "test", there.name)
    verify_json(request, "test", {"ed25519:a": SIGNER.key.verify_key})


@pytest.mark.parametrize("status", [400, 404, 501])
async def test_servers_that_cannot_withdraw_are_known_by_their_answer(
    servers: IdentityServers, there: IdentityServer, status: int
) -> None:
    there.unbind_answer = Page(b"<html>", status)

    assert not await servers.unbind(BOB, "email", "bob@x.test", there.name)


async def test_errors_about_withdrawing_are_passed_on(
    servers: IdentityServers, there: IdentityServer
) -> None:
    there.unbind_answer = Page(b'{"errcode":"M_TERMS_NOT_SIGNED","error":"Terms"}', 403)

    with pytest.raises(MatrixError) as error:
        await servers.unbind(BOB, "email", "bob@x.test", there.name)

    assert (error.value.errcode, error.value.status) == ("M_TERMS_NOT_SIGNED", 403)


async def test_all_bindings_are_withdrawn_though_a_server_is_gone(
    servers: IdentityServers, there: IdentityServer, certificate: Path
) -> None:
    async with open_identity_server(certificate) as gone:
        await servers.bind(BOB, gone.name, TOKEN, "good", "secret")
    await servers.bind(BOB, there.name, TOKEN, "good", "secret")

    assert not await servers.unbind_all(BOB)
    assert len(there.unbound) == 1


async def test_errors_about_binding_are_passed_on(
    servers: IdentityServers, there: IdentityServer
) -> None:
    with pytest.raises(MatrixError) as error:
        await servers.bind(BOB, there.name, TOKEN, "bad", "secret")

    assert (error.value.errcode, error.value.status) == ("M_SESSION_NOT_VALIDATED", 400)


async def test_a_refused_token_does_not_log_the_client_out(
    servers: IdentityServers, there: IdentityServer
) -> None:
    with pytest.raises(Forbidden):
        await servers.bind(BOB, there.name, "wrong", "good", "secret")


@pytest.mark.parametrize("algorithms", [("sha256", "none"), ("none",)])
async def test_addresses_are_looked_up(
    servers: IdentityServers, there: IdentityServer, algorithms: tuple[str, ...]
) -> None:
    there.known["bob@x.test"], there.algorithms = BOB, algorithms

    assert await servers.lookup(there.name, TOKEN, "email", "bob@x.test") == BOB
    assert await servers.lookup(there.name, TOKEN, "email", "eve@x.test") is None


async def test_answers_that_make_no_sense_are_faults(
    servers: IdentityServers, there: IdentityServer
) -> None:
    there.algorithms = ("md5",)
    with pytest.raises(RemoteFault):
        await servers.lookup(there.name, TOKEN, "email", "bob@x.test")
    there.algorithms, there.known["bob@x.test"] = ("sha256",), "nobody"
    with pytest.raises(RemoteFault):
        await servers.lookup(there.name, TOKEN, "email", "bob@x.test")
    there.site.pages[f"{V2}/store-invite"] = Page(b'{"token":"a b","public_keys":[]}')
    with pytest.raises(RemoteFault):
        await servers.store_invite(there.name, TOKEN, {})
    for broken in (Page(b"[]"), Page(b"", 500), Page(b"\xff"), Page(b"{}", 302)):
        there.site.pages[f"{V2}/hash_details"] = broken
        with pytest.raises(RemoteFault):
            await servers.lookup(there.name, TOKEN, "email", "bob@x.test")


@pytest.mark.parametrize(
    "name", ["", "a b", "evil.test/path", "user@host", "http://x", "a:b:c", "é"]
)
async def test_what_is_no_server_name_is_not_trusted(servers: IdentityServers, name: str) -> None:
    with pytest.raises(ServerNotTrusted):
        await servers.bind(BOB, name, TOKEN, "good", "secret")
    with pytest.raises(ServerNotTrusted):
        await servers.lookup(name, TOKEN, "email", "bob@x.test")


async def test_servers_of_the_private_network_are_not_asked(
    database: Database, bridge: Bridge, certificate: Path, there: IdentityServer
) -> None:
    async with trusting_client(bridge, certificate, address_rules(PRIVATE_NETWORKS, ())) as client:
        servers = IdentityServers(database, client, SIGNER)
        with pytest.raises(RemoteFault):
            await servers.bind(BOB, there.name, TOKEN, "good", "secret")

    assert there.site.connections == 0


async def test_one_valid_key_is_enough(servers: IdentityServers, there: IdentityServer) -> None:
    key = there.key.verify_key.base64
    good = (key, f"https://{there.name}{V2}/pubkey/isvalid")

    assert await servers.is_any_valid([("other", good[1]), good])
    assert not await servers.is_any_valid([("other", good[1]), (key, "https://[::1"), (key, "x")])
    there.is_key_valid = False
    assert not await servers.is_any_valid([good])
