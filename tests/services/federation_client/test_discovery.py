"""Where requests to a server go, by the steps of the specification, and what is cached."""

from collections.abc import Mapping, Sequence

import attrs
import pytest

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.lib.clock import FixedClock
from hs.lib.http_client import HttpClient, HttpFault, HttpResponse, HttpUnreachable
from hs.lib.srv_records import SrvAnswer, SrvRecord, SrvUnavailable, in_order_of_use
from hs.services.federation_client.delegations import CachedDelegations, lifetime_of
from hs.services.federation_client.discovery import discover

FED, OLD = "_matrix-fed._tcp.", "_matrix._tcp."
HOUR_MS = 3_600_000


@attrs.define
class Domain:
    """The Delegations of a test."""

    well_known: Mapping[str, str] = attrs.Factory(dict)
    srv: Mapping[str, Sequence[SrvRecord]] = attrs.Factory(dict)
    asked: list[str] = attrs.Factory(list)

    async def delegated_name(self, hostname: str) -> ServerName | None:
        self.asked.append(hostname)
        name = self.well_known.get(hostname)
        return None if name is None else ServerName(name)

    async def srv_records(self, name: str) -> Sequence[SrvRecord]:
        self.asked.append(name)
        return self.srv.get(name, ())


def record(host: str, port: int = 443, priority: int = 10) -> SrvRecord:
    return SrvRecord(priority, 5, port, host)


C_ORG = [record("c.org")]
CASES = [
    # (server name, well-known, SRV records, address, Host header, certificate name)
    ("1.2.3.4", {}, {}, "1.2.3.4:8448", "1.2.3.4", "1.2.3.4"),
    ("1.2.3.4:80", {}, {}, "1.2.3.4:80", "1.2.3.4:80", "1.2.3.4"),
    ("[2001:db8::1]", {}, {}, "2001:db8::1:8448", "[2001:db8::1]", "2001:db8::1"),
    ("[2001:db8::1]:80", {}, {}, "2001:db8::1:80", "[2001:db8::1]:80", "2001:db8::1"),
    ("a.org:80", {"a.org": "b.org:1"}, {}, "a.org:80", "a.org:80", "a.org"),
    ("a.org", {"a.org": "1.2.3.4"}, {}, "1.2.3.4:8448", "1.2.3.4", "1.2.3.4"),
    ("a.org", {"a.org": "[::2]:9"}, {}, "::2:9", "[::2]:9", "::2"),
    ("a.org", {"a.org": "b.org:9"}, {}, "b.org:9", "b.org:9", "b.org"),
    (
        "a.org",
        {"a.org": "b.org"},
        {FED + "b.org": C_ORG},
        "c.org:443",
        "b.org",
        "b.org",
    ),
    (
        "a.org",
        {"a.org": "b.org"},
        {OLD + "b.org": C_ORG},
        "c.org:443",
        "b.org",
        "b.org",
    ),
    (
        "a.org",
        {"a.org": "b.org"},
        {FED + "b.org": C_ORG, OLD + "b.org": [record("d.org")]},
        "c.org:443",
        "b.org",
        "b.org",
    ),
    (
        "a.org",
        {"a.org": "b.org"},
        {FED + "a.org": C_ORG},
        "b.org:8448",
        "b.org",
        "b.org",
    ),
    ("a.org", {}, {FED + "a.org": [record("c.org", 7)]}, "c.org:7", "a.org", "a.org"),
    ("a.org", {}, {OLD + "a.org": [record("c.org", 7)]}, "c.org:7", "a.org", "a.org"),
    ("a.org", {}, {}, "a.org:8448", "a.org", "a.org"),
    ("plain-name", {}, {}, "plain-name:8448", "plain-name", "plain-name"),
]


@pytest.mark.parametrize(("server", "well_known", "srv", "address", "host", "certificate"), CASES)
async def test_route_follows_the_specification(
    server: str,
    well_known: Mapping[str, str],
    srv: Mapping[str, Sequence[SrvRecord]],
    address: str,
    host: str,
    certificate: str,
) -> None:
    route = await discover(ServerName(server), Domain(well_known, srv))

    assert [f"{place.host}:{place.port}" for place in route.addresses] == [address]
    assert (route.host_header, route.certificate_name) == (host, certificate)


@pytest.mark.parametrize("server", ["1.2.3.4", "[::1]", "a.org:8448"])
async def test_literals_and_ports_need_no_look_up(server: str) -> None:
    domain = Domain()

    await discover(ServerName(server), domain)

    assert domain.asked == []


async def test_domain_whose_record_denies_a_server_is_not_contacted() -> None:
    domain = Domain(srv={FED + "a.org": [record("", 0)]})

    with pytest.raises(RemoteFault, match="says that it has no server"):
        await discover(ServerName("a.org"), domain)


@pytest.mark.parametrize(
    ("name", "well_known"),
    [
        ("localhost:http", {}),
        ("a.org:70000", {}),
        ("[a.org", {}),
        ("", {}),
        ("a.org", {"a.org": "b.org:70000"}),
    ],
)
async def test_wrong_names_lead_nowhere(name: str, well_known: Mapping[str, str]) -> None:
    with pytest.raises(RemoteFault):
        await discover(ServerName(name), Domain(well_known=well_known))


def test_records_are_tried_by_priority_and_weight() -> None:
    records = [record("c", 1, 20), SrvRecord(10, 0, 1, "b"), SrvRecord(10, 90, 1, "a")]

    in_order = in_order_of_use(records, lambda: 0.5)

    assert [row.host for row in in_order] == ["a", "b", "c"]


@attrs.define
class ScriptedHttp:
    """An HttpClient and SrvLookup with scripted answers."""

    responses: list[HttpResponse | HttpFault]
    urls: list[str] = attrs.Factory(list)
    srv: dict[str, SrvAnswer] = attrs.Factory(dict)
    looked_up: list[str] = attrs.Factory(list)

    async def send(self, method: str, url: str, **options: object) -> HttpResponse:
        self.urls.append(url)
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(response, HttpFault):
            raise response
        return response

    async def look_up(self, name: str) -> SrvAnswer:
        self.looked_up.append(name)
        if name not in self.srv:
            raise SrvUnavailable("SERVFAIL")
        return self.srv[name]


def delegations(http: ScriptedHttp, clock: FixedClock) -> CachedDelegations:
    client: HttpClient = http
    return CachedDelegations(lambda host: client, http, clock)


def found(text: str = '{"m.server": "b.org:9"}', status: int = 200, **headers: str) -> HttpResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, named, text.encode(), "")


async def test_well_known_is_cached_for_its_lifetime() -> None:
    clock, http = FixedClock(), ScriptedHttp([found(cache_control="max-age=7200")])
    cache = delegations(http, clock)

    for passed_ms in (0, HOUR_MS, HOUR_MS + 1):
        clock.advance(passed_ms)
        assert await cache.delegated_name("a.org") == "b.org:9"

    assert http.urls == ["https://a.org/.well-known/matrix/server"] * 2


@pytest.mark.parametrize(
    "response",
    [
        found(status=404),
        found("nonsense"),
        found("[]"),
        found('{"m.server": 5}'),
        found('{"m.server": "no server name/"}'),
    ],
)
async def test_invalid_well_known_counts_as_none_for_an_hour(response: HttpResponse) -> None:
    clock, http = FixedClock(), ScriptedHttp([response])
    cache = delegations(http, clock)

    for passed_ms in (0, HOUR_MS - 1, 1):
        clock.advance(passed_ms)
        assert await cache.delegated_name("a.org") is None

    assert len(http.urls) == 2


async def test_unreachable_well_known_is_tried_again_at_growing_intervals() -> None:
    clock, http = FixedClock(), ScriptedHttp([HttpUnreachable("refused")])
    cache = delegations(http, clock)
    minutes = []

    for minute in range(400):
        before = len(http.urls)
        assert await cache.delegated_name("a.org") is None
        if len(http.urls) > before:
            minutes.append(minute)
        clock.advance(60_000)

    assert minutes == [0, 2, 6, 14, 30, 62, 122, 182, 242, 302, 362]


async def test_valid_delegation_outlives_an_outage_of_two_days() -> None:
    clock = FixedClock()
    http = ScriptedHttp([found(cache_control="max-age=300"), HttpUnreachable("refused")])
    cache = delegations(http, clock)

    assert await cache.delegated_name("a.org") == "b.org:9"
    clock.advance(40 * HOUR_MS)
    assert await cache.delegated_name("a.org") == "b.org:9"
    clock.advance(10 * HOUR_MS)
    assert await cache.delegated_name("a.org") is None


@pytest.mark.parametrize(
    ("headers", "lifetime_s"),
    [
        ({}, 24 * 3600),
        ({"cache-control": "max-age=9999999999"}, 48 * 3600),
        ({"cache-control": "public, max-age=7200"}, 7200),
        ({"cache-control": "no-store"}, 300),
        ({"cache-control": "max-age=0"}, 300),
        ({"expires": "Thu, 01 Jan 1970 02:00:00 GMT"}, 7200),
        ({"expires": "0"}, 300),
    ],
)
def test_lifetime_is_bounded(headers: Mapping[str, str], lifetime_s: float) -> None:
    assert lifetime_of(headers, 0) == lifetime_s


async def test_failing_look_up_counts_as_no_record_for_a_minute() -> None:
    clock, http = FixedClock(), ScriptedHttp([HttpUnreachable("refused")])
    cache = delegations(http, clock)

    route = await discover(ServerName("hosts-name"), cache)
    await discover(ServerName("hosts-name"), cache)
    clock.advance(60_001)
    await discover(ServerName("hosts-name"), cache)

    assert [(place.host, place.port) for place in route.addresses] == [("hosts-name", 8448)]
    assert http.looked_up == [FED + "hosts-name", OLD + "hosts-name"] * 2
