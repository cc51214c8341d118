"""Telephone numbers: proved through a delegate, read as their countries write them."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import attrs
import pytest

from hs.services.accounts.threepids.threepids import Validated
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.identity import DelegateSettings
from hs.settings.sections.rate_limits import Rate
from hs.settings.sections.threepids import ThreepidSettings
from hs.storage.database import Database
from tests.support.accounts import OPEN
from tests.support.addresses import FREE, V3, Scene, open_scene

REGISTER = V3 + "/register"
_PROVED = Validated("msisdn", "", 1)
PHONE = {"country": "GB", "phone_number": "07700 900123", "client_secret": "s", "send_attempt": 1}


@pytest.fixture
async def texting(database: Database) -> AsyncIterator[Scene]:
    delegates = DelegateSettings(msisdn="https://id.example.org")
    async with open_scene(database, delegates=delegates) as opened:
        yield opened


async def test_somebody_registers_with_a_number(texting: Scene) -> None:
    phone = {**PHONE, "phone_number": "+44 7700 900123"}
    sent = await texting.post(V3 + "/register/msisdn/requestToken", phone)
    submit = urlsplit(sent.json["submit_url"]).path
    code = {"sid": sent.json["sid"], "client_secret": "s", "token": "0000"}
    creds = {"sid": sent.json["sid"], "client_secret": "s"}
    wish = {
        "username": "alice",
        "password": "secret",
        "auth": {"type": "m.login.msisdn", "threepid_creds": creds},
    }

    wrong, early = await texting.post(submit, code), await texting.post(REGISTER, wish)
    right = await texting.post(submit, {**code, "token": "1234"})
    done = await texting.post(REGISTER, wish)
    named = {"type": "m.id.phone", "country": "GB", "phone": "+447700900123"}
    by_number = await texting.post(
        V3 + "/login", {"type": "m.login.password", "identifier": named, "password": "secret"}
    )
    again = await texting.post(V3 + "/register/msisdn/requestToken", phone)

    assert sent.json["msisdn"] == "447700900123"
    assert (wrong.json, right.json) == ({"success": False}, {"success": True})
    assert early.status == 401
    assert await texting.addresses_of(done.json["access_token"]) == [("msisdn", "447700900123")]
    assert by_number.json["user_id"] == "@alice:test"
    assert again.errcode == "M_THREEPID_IN_USE"


async def test_nobody_learns_whether_a_number_is_known_here(database: Database) -> None:
    delegates = DelegateSettings(msisdn="https://id.example.org")
    silent = ThreepidSettings(request_token_inhibit_3pid_errors=True)
    async with open_scene(database, delegates=delegates, threepids=silent) as texting:
        alice = await texting.accounts.user("alice")
        await texting.accounts.proving.threepids.add(
            alice.user_id, attrs.evolve(_PROVED, address="447700900123")
        )
        told = []
        for number in ("+44 7700 900123", "+44 7700 900456"):
            phone = {**PHONE, "phone_number": number}
            sent = await texting.post(V3 + "/register/msisdn/requestToken", phone)
            code = {"sid": sent.json["sid"], "client_secret": "s", "token": "0000"}
            wrong = await texting.post(urlsplit(sent.json["submit_url"]).path, code)
            told.append((sent.json.keys(), sent.json["submit_url"], wrong.status, wrong.json))

        assert told[0] == told[1]


async def test_no_code_is_found_by_trying(database: Database) -> None:
    delegates = DelegateSettings(msisdn="https://id.example.org")
    rates = attrs.evolve(FREE, rc_3pid_validation=Rate(0.001, 3))
    async with open_scene(database, delegates=delegates, rate_limits=rates) as texting:
        phone = {**PHONE, "phone_number": "+44 7700 900123"}
        sent = await texting.post(V3 + "/register/msisdn/requestToken", phone)
        submit = urlsplit(sent.json["submit_url"]).path
        code = {"sid": sent.json["sid"], "client_secret": "s"}

        tried = [await texting.post(submit, {**code, "token": f"000{n}"}) for n in range(3)]

        assert [one.status for one in tried] == [200, 200, 429]


async def test_a_number_is_read_as_its_country_writes_it(texting: Scene) -> None:
    pytest.importorskip("phonenumbers")
    alice = await texting.accounts.user("alice", password="secret")
    await texting.accounts.proving.threepids.add(
        alice.user_id, attrs.evolve(_PROVED, address="447700900123")
    )
    named = {"type": "m.id.phone", "country": "GB", "phone": "07700 900123"}

    answer = await texting.post(
        V3 + "/login", {"type": "m.login.password", "identifier": named, "password": "secret"}
    )

    assert answer.json["user_id"] == "@alice:test"


async def test_both_may_be_required(database: Database) -> None:
    required: RegistrationSettings = attrs.evolve(
        OPEN, registrations_require_3pid=("email", "msisdn")
    )
    delegates = DelegateSettings(msisdn="https://id.example.org")
    async with open_scene(database, registration=required, delegates=delegates) as scene:
        asked = await scene.post(REGISTER, {})

    assert [set(flow["stages"]) for flow in asked.json["flows"]] == [
        {"m.login.email.identity", "m.login.msisdn"}
    ]
