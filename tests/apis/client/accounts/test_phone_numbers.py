"""Phone numbers: validation by a delegate, and national formats."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import attrs
import pytest

from hs.services.accounts.threepids.threepids import ValidatedThreepid
from hs.settings.sections.accounts import RegistrationSettings
from hs.settings.sections.identity import DelegateSettings
from hs.settings.sections.rate_limits import Rate
from hs.settings.sections.threepids import ThreepidSettings
from hs.storage.database import Database
from tests.support.accounts import OPEN
from tests.support.addresses import FREE, V3, AddressScene, open_scene

REGISTER = V3 + "/register"
_VALIDATED = ValidatedThreepid("msisdn", "", 1)
PHONE = {"country": "GB", "phone_number": "07700 900123", "client_secret": "s", "send_attempt": 1}


@pytest.fixture
async def scene(database: Database) -> AsyncIterator[AddressScene]:
    delegates = DelegateSettings(msisdn="https://id.example.org")
    async with open_scene(database, delegates=delegates) as scene:
        yield scene


async def test_registration_with_a_phone_number(scene: AddressScene) -> None:
    phone = {**PHONE, "phone_number": "+44 7700 900123"}
    sent = await scene.post(V3 + "/register/msisdn/requestToken", phone)
    submit = urlsplit(sent.json["submit_url"]).path
    code = {"sid": sent.json["sid"], "client_secret": "s", "token": "0000"}
    creds = {"sid": sent.json["sid"], "client_secret": "s"}
    body = {
        "username": "alice",
        "password": "secret",
        "auth": {"type": "m.login.msisdn", "threepid_creds": creds},
    }

    wrong_code, early_registration = (
        await scene.post(submit, code),
        await scene.post(REGISTER, body),
    )
    right_code = await scene.post(submit, {**code, "token": "1234"})
    registration = await scene.post(REGISTER, body)
    identifier = {"type": "m.id.phone", "country": "GB", "phone": "+447700900123"}
    login = await scene.post(
        V3 + "/login", {"type": "m.login.password", "identifier": identifier, "password": "secret"}
    )
    second_request = await scene.post(V3 + "/register/msisdn/requestToken", phone)

    assert sent.json["msisdn"] == "447700900123"
    assert (wrong_code.json, right_code.json) == ({"success": False}, {"success": True})
    assert early_registration.status == 401
    assert await scene.addresses_of(registration.json["access_token"]) == [
        ("msisdn", "447700900123")
    ]
    assert login.json["user_id"] == "@alice:test"
    assert second_request.errcode == "M_THREEPID_IN_USE"


async def test_responses_do_not_reveal_known_numbers(database: Database) -> None:
    delegates = DelegateSettings(msisdn="https://id.example.org")
    threepids = ThreepidSettings(request_token_inhibit_3pid_errors=True)
    async with open_scene(database, delegates=delegates, threepids=threepids) as scene:
        alice = await scene.accounts.user("alice")
        await scene.accounts.threepids.threepids.add(
            alice.user_id, attrs.evolve(_VALIDATED, address="447700900123")
        )
        observed = []
        for number in ("+44 7700 900123", "+44 7700 900456"):
            phone = {**PHONE, "phone_number": number}
            sent = await scene.post(V3 + "/register/msisdn/requestToken", phone)
            code = {"sid": sent.json["sid"], "client_secret": "s", "token": "0000"}
            wrong_code = await scene.post(urlsplit(sent.json["submit_url"]).path, code)
            observed.append(
                (sent.json.keys(), sent.json["submit_url"], wrong_code.status, wrong_code.json)
            )

        assert observed[0] == observed[1]


async def test_attempts_at_a_code_are_rate_limited(database: Database) -> None:
    delegates = DelegateSettings(msisdn="https://id.example.org")
    rates = attrs.evolve(FREE, rc_3pid_validation=Rate(0.001, 3))
    async with open_scene(database, delegates=delegates, rate_limits=rates) as scene:
        phone = {**PHONE, "phone_number": "+44 7700 900123"}
        sent = await scene.post(V3 + "/register/msisdn/requestToken", phone)
        submit = urlsplit(sent.json["submit_url"]).path
        code = {"sid": sent.json["sid"], "client_secret": "s"}

        attempts = [await scene.post(submit, {**code, "token": f"000{n}"}) for n in range(3)]

        assert [response.status for response in attempts] == [200, 200, 429]


async def test_number_in_national_format_is_accepted(scene: AddressScene) -> None:
    pytest.importorskip("phonenumbers")
    alice = await scene.accounts.user("alice", password="secret")
    await scene.accounts.threepids.threepids.add(
        alice.user_id, attrs.evolve(_VALIDATED, address="447700900123")
    )
    identifier = {"type": "m.id.phone", "country": "GB", "phone": "07700 900123"}

    response = await scene.post(
        V3 + "/login", {"type": "m.login.password", "identifier": identifier, "password": "secret"}
    )

    assert response.json["user_id"] == "@alice:test"


async def test_email_and_phone_number_can_both_be_required(database: Database) -> None:
    required: RegistrationSettings = attrs.evolve(
        OPEN, registrations_require_3pid=("email", "msisdn")
    )
    delegates = DelegateSettings(msisdn="https://id.example.org")
    async with open_scene(database, registration=required, delegates=delegates) as scene:
        challenge = await scene.post(REGISTER, {})

    assert [set(flow["stages"]) for flow in challenge.json["flows"]] == [
        {"m.login.email.identity", "m.login.msisdn"}
    ]
