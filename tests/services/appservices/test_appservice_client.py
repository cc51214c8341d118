"""Requests to application services: legacy routes, tokens, third-party lookups, namespaces."""

import pytest

from hs.core.errors import Exclusive, Forbidden
from hs.core.ids import RoomAlias, UserID
from hs.core.requester import Requester
from hs.services.appservices.appservice_client import AppserviceRoute
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.storage.database import Database
from tests.support.appservices import FakeServices, SentRequest, registration, settings_with
from tests.support.composition import SERVER, open_process
from tests.support.rooms import ALICE

THIRD_PARTY = "/_matrix/client/v3/thirdparty"
on_inline_engine = pytest.mark.parametrize("engine", ["inline"], indirect=True)


def _is_rejected(registry: AppserviceRegistry, requester: Requester, alias: str) -> bool:
    try:
        registry.check_may_manage(requester, RoomAlias(alias))
    except Exclusive:
        return True
    return False


@on_inline_engine
async def test_legacy_route_is_used_if_the_current_one_is_unknown(database: Database) -> None:
    services = FakeServices(answer=lambda sent: 200 if "/_matrix/" not in sent.url else 404)
    async with open_process(database, settings_with(registration()), http=services) as process:
        clients = process.services.core.appservices
        route = AppserviceRoute("/users/x", "/users/x")

        answer = await clients.calls.send(clients.registry.services[0], "GET", route, timeout_s=10)

    assert answer.status == 200
    assert [request.url for request in services.sent] == [
        "http://irc.test/_matrix/app/v1/users/x",
        "http://irc.test/users/x",
    ]


@on_inline_engine
async def test_token_is_sent_in_the_query_if_configured(database: Database) -> None:
    services, settings = FakeServices(), settings_with(registration(), legacy_authorization=True)
    async with open_process(database, settings, http=services) as process:
        clients = process.services.core.appservices
        service, route = clients.registry.services[0], AppserviceRoute("/x")

        await clients.calls.send(service, "GET", route, query=[("a", "b c")], timeout_s=10)

    assert services.sent[0].url == "http://irc.test/_matrix/app/v1/x?a=b+c&access_token=hs-irc"


@on_inline_engine
async def test_results_of_reachable_services_are_returned(database: Database) -> None:
    def answer(sent: SentRequest) -> int:
        return 0 if "irc.test" in sent.url else 200

    settings = settings_with(
        registration(protocols=("chat",)), registration("sms", protocols=("chat",))
    )
    async with open_process(database, settings, http=FakeServices(answer=answer)) as process:
        client = process.client()
        protocol = await client.get(f"{THIRD_PARTY}/protocol/chat", token="as-irc")
        users = await client.get(f"{THIRD_PARTY}/user/chat", token="as-irc")

    assert protocol.json == {"instances": []}
    assert (users.errcode, users.json["error"]) == ("M_NOT_FOUND", "No users were found")


def test_exclusive_aliases_are_reserved_for_their_service() -> None:
    registry = AppserviceRegistry([registration(), registration("sms")], SERVER)
    human = Requester(ALICE)
    irc = Requester(UserID("@ircbot:x"), appservice_id="irc")

    assert _is_rejected(registry, human, f"#_irc_x:{SERVER}")
    assert not _is_rejected(registry, human, f"#free:{SERVER}")
    assert not _is_rejected(registry, irc, f"#_irc_x:{SERVER}")
    assert _is_rejected(registry, irc, f"#_sms_x:{SERVER}")
    assert _is_rejected(registry, irc, f"#free:{SERVER}")


def test_remote_users_are_in_no_namespace() -> None:
    registry = AppserviceRegistry([registration()], SERVER)

    assert registry.owns("irc", UserID(f"@_irc_x:{SERVER}"))
    assert registry.owns("irc", UserID(f"@ircbot:{SERVER}"))
    assert not registry.owns("irc", UserID("@_irc_x:elsewhere.test"))
    assert registry.reserves(UserID(f"@ircbot:{SERVER}"), None)


def test_user_without_service_is_rejected() -> None:
    registry = AppserviceRegistry([registration()], SERVER)

    with pytest.raises(Forbidden):
        registry.of_requester(Requester(ALICE))
