"""Delivery of e-mail to a real SMTP server."""

import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio

from hs.lib.mail.mailer import (
    MAX_CONCURRENT,
    TIMEOUT_S,
    Mail,
    MailFault,
    NoMailer,
    SmtpMailer,
    SmtpRoute,
)
from hs.lib.mail.templates import Templates
from tests.support.servers.smtp import MailBox, open_mail_box, plain_of

MAIL = Mail(
    to="alice@example.org",
    subject="Grüße\nfrom here",
    text="Hello Alice\n",
    html="<p>Hello Alice</p>",
    headers={"X-Test": "yes"},
)


def route_to(box: MailBox) -> SmtpRoute:
    return SmtpRoute(host="127.0.0.1", port=box.port, sender="Server <noreply@example.org>")


async def test_message_is_delivered_completely() -> None:
    async with open_mail_box() as box:
        await SmtpMailer(route_to(box)).send(MAIL)

    (message,) = box.messages
    assert (message["To"], message["X-Test"]) == ("alice@example.org", "yes")
    assert message["From"] == "Server <noreply@example.org>"
    assert message["Subject"] == "Grüße from here"
    assert message["Message-ID"].endswith("@example.org>")
    assert plain_of(message).strip() == "Hello Alice"
    html = message.get_body(("html",))
    assert html is not None
    assert "<p>Hello Alice</p>" in html.get_content()


async def test_mailer_authenticates_and_wrong_password_is_temporary_fault() -> None:
    async with open_mail_box(user=("hs", "secret")) as box:
        route = attrs.evolve(route_to(box), user="hs", password="secret")
        await SmtpMailer(route).send(MAIL)

        with pytest.raises(MailFault) as fault:
            await SmtpMailer(attrs.evolve(route, password="wrong")).send(MAIL)

    assert len(box.messages) == 1
    assert fault.value.temporary


async def test_non_ascii_password_is_fault() -> None:
    async with open_mail_box(user=("hs", "größe")) as box:
        route = attrs.evolve(route_to(box), user="hs", password="größe")

        with pytest.raises(MailFault, match="ascii"):
            await SmtpMailer(route).send(MAIL)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for mail.example.org, in one file."""
    path = tmp_path_factory.mktemp("tls") / "mail.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=mail.example.org", "-addext", "subjectAltName=DNS:mail.example.org"]
    subprocess.run(
        [*command.split(), *subject, "-keyout", str(path), "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


async def test_connection_uses_starttls_if_offered(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    offered = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    offered.load_cert_chain(certificate)
    async with open_mail_box(tls=offered, user=("hs", "secret")) as box:
        route = attrs.evolve(route_to(box), user="hs", password="secret", must_be_encrypted=True)
        await SmtpMailer(attrs.evolve(route, tls_name="mail.example.org")).send(MAIL)

        with pytest.raises(MailFault, match="certificate"):
            await SmtpMailer(route).send(MAIL)

    assert box.encrypted == [True]


async def test_nothing_is_sent_unencrypted_if_encryption_is_required() -> None:
    async with open_mail_box() as box:
        mailer = SmtpMailer(attrs.evolve(route_to(box), must_be_encrypted=True))

        with pytest.raises(MailFault, match="STARTTLS"):
            await mailer.send(MAIL)

    assert box.messages == []


@pytest.mark.parametrize(("reply", "temporary"), [("550 no such user", False), ("450 later", True)])
async def test_rejected_recipient_is_temporary_by_smtp_code(reply: str, temporary: bool) -> None:
    async with open_mail_box() as box:
        box.refusals["alice@example.org"] = reply

        with pytest.raises(MailFault) as fault:
            await SmtpMailer(route_to(box)).send(MAIL)

    assert fault.value.temporary is temporary


async def test_unreachable_server_is_temporary_fault() -> None:
    async with open_mail_box() as box:
        route = route_to(box)

    with pytest.raises(MailFault) as fault:
        await SmtpMailer(route).send(MAIL)

    assert fault.value.temporary


@pytest.mark.parametrize("address", ["a@b\r\nBcc: eve@example.org", "", "\n"])
async def test_address_cannot_inject_headers(address: str) -> None:
    async with open_mail_box() as box:
        with pytest.raises(MailFault) as fault:
            await SmtpMailer(route_to(box)).send(attrs.evolve(MAIL, to=address))

    assert not fault.value.temporary
    assert box.messages == []


async def drip(stream: trio.SocketStream) -> None:
    """Send a greeting that never ends, fast enough for the timeout between two bytes."""
    with suppress(trio.BrokenResourceError):
        async with stream:
            await stream.send_all(b"220-")
            while True:
                await stream.send_all(b".")
                await trio.sleep(0.01)


async def serve_drips(task_status: trio.TaskStatus[SmtpRoute]) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    task_status.started(SmtpRoute(host="127.0.0.1", port=port, sender="noreply@example.org"))
    await trio.serve_listeners(drip, [listener])


async def test_server_that_answers_without_end_fails_all_messages_in_time() -> None:
    faults: list[MailFault] = []

    async def send() -> None:
        with pytest.raises(MailFault) as fault:
            await mailer.send(MAIL)
        faults.append(fault.value)

    async with trio.open_nursery() as nursery:
        route = await nursery.start(serve_drips)
        mailer = SmtpMailer(route, delivery_s=0.2)
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as senders:
                for _ in range(2 * MAX_CONCURRENT):
                    senders.start_soon(send)
        nursery.cancel_scope.cancel()

    assert [fault.temporary for fault in faults] == [True] * 2 * MAX_CONCURRENT


async def test_message_that_waits_for_others_is_given_up() -> None:
    async with trio.open_nursery() as nursery:
        route = await nursery.start(serve_drips)
        mailer = SmtpMailer(route, delivery_s=1.0, send_s=0.1)

        with pytest.raises(MailFault, match="too slow") as fault:
            await mailer.send(MAIL)
        nursery.cancel_scope.cancel()

    assert fault.value.temporary


async def test_no_mailer_raises_mail_fault() -> None:
    with pytest.raises(MailFault):
        await NoMailer().send(MAIL)


def test_html_templates_escape_values() -> None:
    page = Templates().render("add_threepid_failure.html", failure_reason="<T> a & b")

    assert "&lt;T&gt;" in page
    assert "a &amp; b" in page
