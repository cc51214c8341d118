"""Requests to identity servers, and the validation of their responses."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hs.core.errors import Forbidden, MatrixError, RemoteFault, ServerNotTrusted, TooLarge
from hs.core.ids import ServerName, UserID
from hs.core.signing.keys import Signer, SigningKey
from hs.core.signing.signed_json import verify_json
from hs.lib.aio import Bridge
from hs.nursery.wiring.http_clients import address_rules
from hs.services.accounts.threepids import identity_servers
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.settings.sections.outgoing import PRIVATE_NETWORKS
from hs.storage.database import Database
from tests.support.servers.identity_server import (
    TOKEN,
    V2,
    IdentityServer,
    open_identity_server,
    trusting_client,
)
from tests.support.servers.sites import SiteResponse, make_certificate

BOB = UserID("@bob:test")
SIGNER = Signer(ServerName("test"), SigningKey.from_seed("a", bytes(range(32))))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def identity_server(certificate: Path) -> AsyncIterator[IdentityServer]:
    async with open_identity_server(certificate) as opened:
        yield opened


@pytest.fixture
async def servers(
    database: Database, bridge: Bridge, certificate: Path
) -> AsyncIterator[IdentityServers]:
    async with trusting_client(bridge, certificate) as client:
        yield IdentityServers(database, client, SIGNER)


async def test_binding_is_stored_and_unbound_at_its_server(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    await servers.bind(BOB, identity_server.name, TOKEN, "good", "secret")

    assert await servers.unbind(BOB, "email", "bob@x.test")
    assert not await servers.unbind(BOB, "email", "bob@x.test")
    body, _ = identity_server.unbound[0]
    assert body == {"mxid": BOB, "threepid": {"medium": "email", "address": "bob@x.test"}}
    assert len(identity_server.unbound) == 1


async def test_unbind_request_is_signed_by_this_server(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    await servers.unbind(BOB, "email", "bob@x.test", identity_server.name)

    body, header = identity_server.unbound[0]
    scheme, _, parameters = header.partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', parameters))
    request = {
        "method": "POST",
        "uri": f"{V2}/3pid/unbind",
        "origin": "test",
        "destination": identity_server.name,
        "content": body,
        "signatures": {"test": {fields["key"]: fields["sig"]}},
    }
    assert (scheme, fields["origin"], fields["destination"]) == (
        "X-Matrix",
        "test",
        identity_server.name,
    )
    verify_json(request, "test", {"ed25519:a": SIGNER.key.verify_key})


@pytest.mark.parametrize("status", [400, 404, 501])
async def test_unbind_returns_false_if_the_server_does_not_support_it(
    servers: IdentityServers, identity_server: IdentityServer, status: int
) -> None:
    identity_server.unbind_answer = SiteResponse(b"<html>", status)

    assert not await servers.unbind(BOB, "email", "bob@x.test", identity_server.name)


async def test_matrix_errors_of_unbind_are_passed_on(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    identity_server.unbind_answer = SiteResponse(
        b'{"errcode":"M_TERMS_NOT_SIGNED","error":"Terms"}', 403
    )

    with pytest.raises(MatrixError) as error:
        await servers.unbind(BOB, "email", "bob@x.test", identity_server.name)

    assert (error.value.errcode, error.value.status) == ("M_TERMS_NOT_SIGNED", 403)


async def test_unbind_all_continues_after_an_unreachable_server(
    servers: IdentityServers, identity_server: IdentityServer, certificate: Path
) -> None:
    async with open_identity_server(certificate) as unreachable:
        await servers.bind(BOB, unreachable.name, TOKEN, "good", "secret")
    await servers.bind(BOB, identity_server.name, TOKEN, "good", "secret")

    assert not await servers.unbind_all(BOB)
    assert len(identity_server.unbound) == 1


async def test_matrix_errors_of_bind_are_passed_on(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    with pytest.raises(MatrixError) as error:
        await servers.bind(BOB, identity_server.name, TOKEN, "bad", "secret")

    assert (error.value.errcode, error.value.status) == ("M_SESSION_NOT_VALIDATED", 400)


async def test_rejected_token_does_not_log_the_client_out(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    with pytest.raises(Forbidden):
        await servers.bind(BOB, identity_server.name, "wrong", "good", "secret")


@pytest.mark.parametrize("algorithms", [("sha256", "none"), ("none",)])
async def test_lookup_finds_the_user_of_an_identifier(
    servers: IdentityServers, identity_server: IdentityServer, algorithms: tuple[str, ...]
) -> None:
    identity_server.known["bob@x.test"], identity_server.algorithms = BOB, algorithms

    assert await servers.lookup(identity_server.name, TOKEN, "email", "bob@x.test") == BOB
    assert await servers.lookup(identity_server.name, TOKEN, "email", "eve@x.test") is None


async def test_invalid_responses_are_remote_faults(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    identity_server.algorithms = ("md5",)
    with pytest.raises(RemoteFault):
        await servers.lookup(identity_server.name, TOKEN, "email", "bob@x.test")
    identity_server.algorithms, identity_server.known["bob@x.test"] = ("sha256",), "nobody"
    with pytest.raises(RemoteFault):
        await servers.lookup(identity_server.name, TOKEN, "email", "bob@x.test")
    identity_server.site.pages[f"{V2}/store-invite"] = SiteResponse(
        b'{"token":"a b","public_keys":[]}'
    )
    with pytest.raises(RemoteFault):
        await servers.store_invite(identity_server.name, TOKEN, {})
    for broken in (
        SiteResponse(b"[]"),
        SiteResponse(b"", 500),
        SiteResponse(b"\xff"),
        SiteResponse(b"{}", 302),
    ):
        identity_server.site.pages[f"{V2}/hash_details"] = broken
        with pytest.raises(RemoteFault):
            await servers.lookup(identity_server.name, TOKEN, "email", "bob@x.test")


@pytest.mark.parametrize(
    "name", ["", "a b", "evil.test/path", "user@host", "http://x", "a:b:c", "é"]
)
async def test_invalid_server_name_is_rejected(servers: IdentityServers, name: str) -> None:
    with pytest.raises(ServerNotTrusted):
        await servers.bind(BOB, name, TOKEN, "good", "secret")
    with pytest.raises(ServerNotTrusted):
        await servers.lookup(name, TOKEN, "email", "bob@x.test")


async def test_identity_servers_in_private_networks_are_not_contacted(
    database: Database, bridge: Bridge, certificate: Path, identity_server: IdentityServer
) -> None:
    async with trusting_client(bridge, certificate, address_rules(PRIVATE_NETWORKS, ())) as client:
        servers = IdentityServers(database, client, SIGNER)
        with pytest.raises(RemoteFault):
            await servers.bind(BOB, identity_server.name, TOKEN, "good", "secret")

    assert identity_server.site.connections == 0


async def test_invite_is_valid_if_any_of_its_keys_is(
    servers: IdentityServers, identity_server: IdentityServer
) -> None:
    key = identity_server.key.verify_key.base64
    valid_key = (key, f"https://{identity_server.name}{V2}/pubkey/isvalid")

    assert await servers.is_any_valid([("other", valid_key[1]), valid_key])
    assert not await servers.is_any_valid(
        [("other", valid_key[1]), (key, "https://[::1"), (key, "x")]
    )
    identity_server.is_key_valid = False
    assert not await servers.is_any_valid([valid_key])


async def test_bindings_of_a_user_are_limited(
    servers: IdentityServers, identity_server: IdentityServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_servers, "MAX_BINDINGS", 1)
    await servers.bind(BOB, identity_server.name, TOKEN, "good", "secret")

    with pytest.raises(TooLarge):
        await servers.bind(BOB, identity_server.name, TOKEN, "good", "secret")
