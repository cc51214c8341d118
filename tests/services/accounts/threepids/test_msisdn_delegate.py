"""The delegate for text messages and the captcha service, over real sockets."""

from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import orjson
import pytest

from hs.core.errors import MatrixError, RemoteFault, ThreepidDenied
from hs.lib.aio import Bridge
from hs.lib.http_client.addresses import ALLOW_ALL
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.sessions import HttpSessions
from hs.services.accounts.terms.captcha import Recaptcha
from hs.services.accounts.threepids.msisdn_delegate import V1, MsisdnDelegate, ValidatedPhone
from tests.support.servers.sites import Site, SiteResponse, open_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened


@pytest.fixture
async def http(bridge: Bridge) -> AsyncIterator[BridgedHttpClient]:
    client = BridgedHttpClient(HttpSessions(bridge, ALLOW_ALL), "test")
    yield client
    await client.sessions.aclose()


def json_page(content: object, status: int = 200) -> SiteResponse:
    return SiteResponse(orjson.dumps(content), status)


async def request_token(phones: MsisdnDelegate) -> str:
    session = await phones.request_token(
        client_secret="s", country="DE", phone_number="0151", send_attempt=2, next_link="https://x"
    )
    return session.sid


async def test_phone_number_is_validated(site: Site, http: BridgedHttpClient) -> None:
    phones = MsisdnDelegate(site.url("/"), http)
    site.pages[f"{V1}/validate/msisdn/requestToken"] = json_page({"sid": "1", "msisdn": "49151"})
    site.pages[f"{V1}/validate/msisdn/submitToken"] = json_page({"success": True})
    site.pages[f"{V1}/3pid/getValidated3pid"] = json_page(
        {"medium": "msisdn", "address": "49151", "validated_at": 5}
    )

    sid = await request_token(phones)
    is_right = await phones.submit(sid, "s", "1234")
    validated = await phones.validated(sid, "s")

    assert (sid, is_right, validated) == ("1", True, ValidatedPhone("49151", 5))
    assert orjson.loads(site.requests[0].body) == {
        "client_secret": "s",
        "country": "DE",
        "phone_number": "0151",
        "send_attempt": 2,
        "next_link": "https://x",
    }
    assert site.requests[2].path == f"{V1}/3pid/getValidated3pid?sid=1&client_secret=s"


async def test_matrix_errors_of_the_delegate_are_passed_on(
    site: Site, http: BridgedHttpClient
) -> None:
    error_page = json_page({"errcode": "M_INVALID_PARAM", "error": "invalid number"}, 400)
    site.pages[f"{V1}/validate/msisdn/requestToken"] = error_page

    with pytest.raises(MatrixError) as error:
        await request_token(MsisdnDelegate(site.url("/"), http))

    assert error.value.errcode == "M_INVALID_PARAM"


@pytest.mark.parametrize(
    "page",
    [
        json_page({"errcode": "M_SESSION_NOT_VALIDATED", "error": "x"}, 400),
        json_page({"medium": "email", "address": "a@b.c"}),
        json_page({}),
        SiteResponse(b"", 404),
    ],
)
async def test_session_without_validated_number_returns_none(
    site: Site, http: BridgedHttpClient, page: SiteResponse
) -> None:
    site.pages[f"{V1}/3pid/getValidated3pid"] = page

    assert await MsisdnDelegate(site.url("/"), http).validated("1", "s") is None


async def test_faults_of_the_delegate_do_not_reveal_its_address(
    site: Site, http: BridgedHttpClient
) -> None:
    unreachable = MsisdnDelegate("http://127.0.0.1:1", http)
    for page in (json_page({}), json_page({}, 500), json_page({}, 404)):
        site.pages[f"{V1}/validate/msisdn/requestToken"] = page
        with pytest.raises(RemoteFault) as error:
            await request_token(MsisdnDelegate(site.url("/"), http))
        assert error.value.server == "for text messages"

    for pending_request in (request_token(unreachable), unreachable.validated("1", "s")):
        with pytest.raises(RemoteFault) as error:
            await pending_request
        assert error.value.server == "for text messages"


async def test_text_messages_are_denied_without_a_delegate(http: BridgedHttpClient) -> None:
    phones = MsisdnDelegate(None, http)

    assert not phones.is_configured
    with pytest.raises(ThreepidDenied):
        await request_token(phones)


@pytest.mark.parametrize(
    ("page", "is_right"),
    [
        (json_page({"success": True}), True),
        (json_page({"success": False, "error-codes": ["x"]}), False),
        (json_page({"success": "yes"}), False),
        (json_page([]), False),
        (json_page({"success": True}, 500), False),
    ],
)
async def test_captcha_response_is_verified(
    site: Site, http: BridgedHttpClient, page: SiteResponse, is_right: bool
) -> None:
    site.pages["/verify"] = page

    assert await Recaptcha(http, site.url("/verify"), "key").verify("answer", "1.2.3.4") is is_right

    form = parse_qs(site.requests[0].body.decode())
    assert form == {"secret": ["key"], "response": ["answer"], "remoteip": ["1.2.3.4"]}


async def test_unreachable_captcha_service_is_a_remote_fault(http: BridgedHttpClient) -> None:
    with pytest.raises(RemoteFault, match="captcha"):
        await Recaptcha(http, "http://127.0.0.1:1/", "key").verify("answer", "1.2.3.4")
