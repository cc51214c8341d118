"""Requests to application services: legacy routes, tokens, third-party lookups, namespaces."""

import pytest

from hs.core.errors import Exclusive, Forbidden
from hs.core.ids import RoomAlias, UserID
from hs.core.requester import Requester
from hs.services.appservices.appservice_client import AppserviceClient, AppserviceRoute
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.third_party_networks import ThirdPartyNetworks
from tests.support.appservices import FakeServices, SentRequest, registration
from tests.support.rooms import ALICE, SERVER


def _is_rejected(registry: AppserviceRegistry, requester: Requester, alias: str) -> bool:
    try:
        registry.check_may_manage(requester, RoomAlias(alias))
    except Exclusive:
        return True
    return False


async def test_legacy_route_is_used_if_the_current_one_is_unknown() -> None:
    services = FakeServices(answer=lambda sent: 200 if "/_matrix/" not in sent.url else 404)
    registry = AppserviceRegistry([registration()], SERVER)
    calls = AppserviceClient(services, False)

    answer = await calls.send(
        registry.services[0], "GET", AppserviceRoute("/users/x", "/users/x"), timeout_s=10
    )

    assert answer.status == 200
    assert [request.url for request in services.sent] == [
        "http://irc.test/_matrix/app/v1/users/x",
        "http://irc.test/users/x",
    ]


async def test_token_is_sent_in_the_query_if_configured() -> None:
    services = FakeServices()
    registry = AppserviceRegistry([registration()], SERVER)
    calls = AppserviceClient(services, True)

    await calls.send(
        registry.services[0], "GET", AppserviceRoute("/x"), query=[("a", "b c")], timeout_s=10
    )

    assert services.sent[0].url == "http://irc.test/_matrix/app/v1/x?a=b+c&access_token=hs-irc"


async def test_results_of_reachable_services_are_returned() -> None:
    def answer(sent: SentRequest) -> int:
        return 0 if "irc.test" in sent.url else 200

    registrations = [registration(protocols=("chat",)), registration("sms", protocols=("chat",))]
    networks = ThirdPartyNetworks(
        AppserviceRegistry(registrations, SERVER),
        AppserviceClient(FakeServices(answer=answer), False),
    )

    assert await networks.protocol("chat") == {"instances": []}
    assert await networks.users("chat", []) == []


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
