"""Requests to application services: routes of old, tokens, queries, and what comes back."""

import pytest

from hs.core.errors import Exclusive, Forbidden
from hs.core.ids import RoomAlias, UserID
from hs.core.requester import Requester
from hs.services.appservices.appservice_client import Route, ServiceCalls
from hs.services.appservices.appservice_registry import ServiceRegistry
from hs.services.appservices.third_party_networks import ThirdPartyNetworks
from tests.support.appservices import Sent, Services, registration
from tests.support.rooms import ALICE, SERVER


def _refused(registry: ServiceRegistry, requester: Requester, alias: str) -> bool:
    try:
        registry.check_may_manage(requester, RoomAlias(alias))
    except Exclusive:
        return True
    return False


async def test_a_service_that_knows_only_old_routes_is_asked_by_those() -> None:
    services = Services(answer=lambda sent: 200 if "/_matrix/" not in sent.url else 404)
    registry = ServiceRegistry([registration()], SERVER)
    calls = ServiceCalls(services, False)

    answer = await calls.send(
        registry.services[0], "GET", Route("/users/x", "/users/x"), timeout_s=10
    )

    assert answer.status == 200
    assert [one.url for one in services.sent] == [
        "http://irc.test/_matrix/app/v1/users/x",
        "http://irc.test/users/x",
    ]


async def test_old_services_get_the_token_in_the_query_if_that_is_wanted() -> None:
    services = Services()
    registry = ServiceRegistry([registration()], SERVER)
    calls = ServiceCalls(services, True)

    await calls.send(registry.services[0], "GET", Route("/x"), query=[("a", "b c")], timeout_s=10)

    assert services.sent[0].url == "http://irc.test/_matrix/app/v1/x?a=b+c&access_token=hs-irc"


async def test_a_service_that_is_away_does_not_hide_the_others() -> None:
    def answer(sent: Sent) -> int:
        return 0 if "irc.test" in sent.url else 200

    both = [registration(protocols=("chat",)), registration("sms", protocols=("chat",))]
    networks = ThirdPartyNetworks(
        ServiceRegistry(both, SERVER), ServiceCalls(Services(answer=answer), False)
    )

    assert await networks.protocol("chat") == {"instances": []}
    assert await networks.users("chat", []) == []


def test_aliases_of_a_namespace_are_for_its_service_alone() -> None:
    registry = ServiceRegistry([registration(), registration("sms")], SERVER)
    human = Requester(ALICE)
    irc = Requester(UserID("@ircbot:x"), appservice_id="irc")

    assert _refused(registry, human, f"#_irc_x:{SERVER}")
    assert not _refused(registry, human, f"#free:{SERVER}")
    assert not _refused(registry, irc, f"#_irc_x:{SERVER}")
    assert _refused(registry, irc, f"#_sms_x:{SERVER}")
    assert _refused(registry, irc, f"#free:{SERVER}")


def test_users_of_other_servers_are_in_no_namespace() -> None:
    registry = ServiceRegistry([registration()], SERVER)

    assert registry.owns("irc", UserID(f"@_irc_x:{SERVER}"))
    assert registry.owns("irc", UserID(f"@ircbot:{SERVER}"))
    assert not registry.owns("irc", UserID("@_irc_x:elsewhere.test"))
    assert registry.reserves(UserID(f"@ircbot:{SERVER}"), None)


def test_people_are_no_services() -> None:
    registry = ServiceRegistry([registration()], SERVER)

    with pytest.raises(Forbidden):
        registry.of_requester(Requester(ALICE))
