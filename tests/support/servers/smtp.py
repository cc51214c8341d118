"""A real SMTP server in the test process, which records the messages it receives."""

import asyncio
import email
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import policy
from email.message import EmailMessage
from typing import Any

import attrs
import trio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

WAIT_S = 120.0


@attrs.define(eq=False)
class MailBox:
    """The received messages, and the port of the server.

    `refusals` are the answers to recipients that are always refused, `answers` those to the next
    recipients, whoever they are.
    """

    port: int = 0
    messages: list[EmailMessage] = attrs.field(factory=list)
    encrypted: list[bool] = attrs.field(factory=list)
    refusals: dict[str, str] = attrs.field(factory=dict)
    answers: list[str] = attrs.field(factory=list)

    async def handle_RCPT(  # noqa: N802  # the name that aiosmtpd calls
        self, _server: Any, _session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        if self.answers:
            return self.answers.pop(0)
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802  # the name that aiosmtpd calls
        self, _server: Any, session: Session, envelope: Envelope
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=policy.default)
        self.encrypted.append(session.ssl is not None)
        self.messages.append(message)
        return "250 OK"

    async def wait_for(self, count: int) -> EmailMessage:
        """Wait until `count` messages have arrived; return the last of them."""
        with trio.fail_after(WAIT_S):
            # Messages arrive in another thread.
            while len(self.messages) < count:  # noqa: ASYNC110 no event crosses threads
                await trio.sleep(0.01)
        return self.messages[count - 1]


class _Server(Controller):
    """A Controller that listens on a free port chosen by the system."""

    smtp_options: dict[str, Any]

    def factory(self) -> SMTP:
        return SMTP(self.handler, **self.smtp_options)

    def _create_server(self) -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        return self.loop.create_server(self._factory_invoker, sock=listener)


def plain_of(message: EmailMessage) -> str:
    """Return the plain text of a message."""
    part = message.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


@asynccontextmanager
async def open_mail_box(
    *, tls: ssl.SSLContext | None = None, user: tuple[str, str] | None = None
) -> AsyncIterator[MailBox]:
    """Run a mail server; `tls` makes it offer STARTTLS, `user` makes it require that login."""
    box = MailBox()

    def authenticate(
        _server: Any, _session: Any, _envelope: Any, _mechanism: str, login: LoginPassword
    ) -> AuthResult:
        pair = (login.login.decode(), login.password.decode())
        return AuthResult(success=pair == user, handled=False)

    smtp_options: dict[str, Any] = {"tls_context": tls, "hostname": "127.0.0.1", "timeout": 60}
    if user is not None:
        smtp_options |= {
            "authenticator": authenticate,
            "auth_required": tls is not None,
            "auth_require_tls": tls is not None,
        }
    server = await trio.to_thread.run_sync(_start, box, smtp_options)
    box.port = server.port
    try:
        yield box
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.stop)


def _start(box: MailBox, smtp_options: dict[str, Any]) -> _Server:
    # Instantiated directly, as trio-asyncio has replaced the event loop policy.
    loop = asyncio.SelectorEventLoop()
    server = _Server(box, hostname="127.0.0.1", loop=loop, ready_timeout=WAIT_S)
    server.smtp_options = smtp_options
    server.start()
    return server
