"""SRV look-ups, with a name server on this machine."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from hs.lib.dns_resolver import DnsSrvLookup
from hs.lib.srv_records import SrvRecord, SrvUnavailable

NAME = "_matrix-fed._tcp.example.org"
Respond = Callable[[dns.message.Message], dns.message.Message | None]


@asynccontextmanager
async def name_server(respond: Respond) -> AsyncIterator[DnsSrvLookup]:
    """Run a name server and yield a look-up that asks it."""
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                wire, client = await server.recvfrom(4096)
                response = respond(dns.message.from_wire(wire))
                if response is not None:
                    await server.sendto(response.to_wire(), client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield DnsSrvLookup("127.0.0.1", server.getsockname()[1], lifetime_s=1.0)
            nursery.cancel_scope.cancel()


def answering(*records: str, ttl: int = 900, rcode: int = dns.rcode.NOERROR) -> Respond:
    def respond(request: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(request)
        response.set_rcode(dns.rcode.Rcode(rcode))
        if records:
            response.answer.append(dns.rrset.from_text(f"{NAME}.", ttl, "IN", "SRV", *records))
        return response

    return respond


async def test_records_are_found() -> None:
    async with name_server(answering("10 5 8443 a.example.org.", "20 0 443 .")) as lookup:
        answer = await lookup.look_up(NAME)

    assert set(answer.records) == {
        SrvRecord(10, 5, 8443, "a.example.org"),
        SrvRecord(20, 0, 443, ""),
    }
    assert answer.ttl_s == 900


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
async def test_absence_is_an_answer(rcode: int) -> None:
    async with name_server(answering(rcode=rcode)) as lookup:
        assert (await lookup.look_up(NAME)).records == ()


@pytest.mark.parametrize(
    "respond",
    [answering(rcode=dns.rcode.SERVFAIL), answering(rcode=dns.rcode.REFUSED), lambda request: None],
    ids=["SERVFAIL", "REFUSED", "silence"],
)
async def test_failure_is_reported(respond: Respond) -> None:
    async with name_server(respond) as lookup:
        with pytest.raises(SrvUnavailable):
            await lookup.look_up(NAME)


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".org", "\\300"])
async def test_name_that_is_none_is_reported(name: str) -> None:
    async with name_server(answering()) as lookup:
        with pytest.raises(SrvUnavailable):
            await lookup.look_up(name)
