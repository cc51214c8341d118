"""E-mail notifications of unread messages, sent by running servers to a real SMTP server."""

import random
import re
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer
from tests.support.servers.smtp import MailBox, open_mail_box, plain_of
from tests.support.web import WebResponse

pytestmark = pytest.mark.process

ADDRESS = "bob@example.org"


async def request(person: Person, method: str, target: str, json: Any = None) -> WebResponse:
    """Send a request once and return the response, whatever its status."""
    async with HttpClient(person.rng.choice(person.ports), person.token or None) as client:
        return await client.request(method, target, json=json)


def link_in(text: str, path: str) -> str:
    """Return path and query of the link to a path. Raises: AssertionError if there is none."""
    for url in re.findall(r"https?://\S+", text):
        parts = urlsplit(url)
        if parts.path == path:
            return f"{parts.path}?{parts.query}"
    raise AssertionError(f"no link to {path} in {text}")


async def add_address(person: Person, box: MailBox) -> None:
    """Validate the address by e-mail and add it to the account."""
    token_request = {"client_secret": "secret", "email": ADDRESS, "send_attempt": 1}
    base = f"{CLIENT}/account/3pid"
    sid = (await person.request("POST", f"{base}/email/requestToken", token_request)).json["sid"]
    validation_text = plain_of(await box.wait_for(1))
    path = "/_matrix/client/unstable/add_threepid/email/submit_token"
    assert (await request(person, "GET", link_in(validation_text, path))).status == 200
    body: dict[str, Any] = {"sid": sid, "client_secret": "secret"}
    session = (await request(person, "POST", f"{base}/add", body)).json["session"]
    user = {"type": "m.id.user", "user": person.user_id}
    password = {"type": "m.login.password", "identifier": user, "password": "p"}
    body["auth"] = {**password, "session": session}
    await person.request("POST", f"{base}/add", body)


async def check_notification_mail(cluster: Cluster, box: MailBox) -> None:
    """Set an e-mail pusher, send messages, check the mail and unsubscribe by its link."""
    ports = cluster.ports
    rng = random.Random(4)
    ada, bob = Person(ports, rng), Person(ports, rng)
    await ada.register("ada")
    await bob.register("bob")
    pusher = {
        "kind": "email",
        "app_id": "m.email",
        "pushkey": ADDRESS,
        "app_display_name": "Email Notifications",
        "device_display_name": ADDRESS,
        "lang": "en",
        "data": {},
    }
    refused = await request(bob, "POST", f"{CLIENT}/pushers/set", pusher)
    await add_address(bob, box)
    await bob.request("POST", f"{CLIENT}/pushers/set", pusher)
    room = {"preset": "public_chat", "name": "The kitchen"}
    room_id = (await ada.request("POST", f"{CLIENT}/createRoom", room)).json["room_id"]
    await bob.request("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    for number, body in enumerate(["The soup is <b>ready</b>", "Come!"]):
        target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/t{number}"
        await ada.request("PUT", target, {"msgtype": "m.text", "body": body})

    mail = await box.wait_for(2)
    text = plain_of(mail)
    html = mail.get_body(("html",))
    unsubscribe = link_in(text, "/_synapse/client/unsubscribe")
    forged = await request(bob, "GET", unsubscribe[:-1])
    pushers_before = (await bob.request("GET", f"{CLIENT}/pushers")).json["pushers"]
    page = await request(bob, "POST", unsubscribe)
    pushers_after = (await bob.request("GET", f"{CLIENT}/pushers")).json["pushers"]

    assert refused.errcode == "M_THREEPID_NOT_FOUND"
    assert mail["to"] == ADDRESS
    assert mail["subject"] == "[Matrix] New messages in The kitchen"
    assert "ada: The soup is <b>ready</b>" in text
    assert "ada: Come!" in text
    assert html is not None
    assert "The soup is &lt;b&gt;ready&lt;/b&gt;" in str(html.get_content())
    assert mail["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert (forged.status, page.status) == (403, 200)
    assert [entry["kind"] for entry in pushers_before] == ["email"]
    assert pushers_after == []
    assert len(box.messages) == 2


async def run_scenario(
    layout: Layout, postgres: PostgresServer | None, redis: RedisServer | None
) -> None:
    async with open_mail_box() as box:
        email = {
            "smtp_host": "127.0.0.1",
            "smtp_port": box.port,
            "notif_from": "%(app)s <hs@example.org>",
            "enable_notifs": True,
            # Long enough for both messages to be sent before the mail.
            "notif_delay_before_mail": "5s",
        }
        with running_cluster(layout, postgres, redis, email=email) as cluster:
            try:
                with trio.fail_after(120):
                    await check_notification_mail(cluster, box)
            except BaseException as error:
                error.add_note(cluster.logs())
                raise


@pytest.mark.parametrize(
    "layout", ["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])]
)
def test_unread_messages_are_mailed_once_and_link_unsubscribes(
    request: pytest.FixtureRequest, layout: Layout
) -> None:
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")

    trio.run(run_scenario, layout, postgres, redis)
