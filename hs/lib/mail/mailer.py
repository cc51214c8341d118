"""Delivery of e-mail through the SMTP server that the administrator configured.

Each message has its own connection, in a thread, as a server sends few messages. smtplib limits
only the time between two bytes, so a timer closes the connections of servers that are slow.
"""

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Mapping
from email import policy
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from typing import Any, Protocol

import attrs
import trio

TIMEOUT_S = 30.0
# For everything between the connection and the answer to the message.
DELIVERY_S = 60.0
# How long a caller waits, also for a thread.
SEND_S = 90.0
MAX_CONCURRENT = 4
MESSAGE_POLICY = policy.SMTP.clone(max_line_length=78)


@attrs.frozen(kw_only=True)
class Mail:
    """A message, as text and as HTML; without `sender` the configured sender is used."""

    to: str
    subject: str
    text: str
    html: str
    sender: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)


class MailFault(Exception):
    """A message could not be sent; `temporary` if a later attempt may succeed."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


class Mailer(Protocol):
    """Sends messages."""

    async def send(self, mail: Mail) -> None:
        """Send one message.

        Raises: MailFault.
        """
        ...


@attrs.frozen(kw_only=True)
class SmtpRoute:
    """The SMTP server, the credentials and the protection of the connection.

    `implicit_tls` uses TLS from the first byte. Otherwise `start_tls` upgrades to TLS if the server
    offers STARTTLS, and `must_be_encrypted` fails if it does not. `tls_name` is the name that the
    certificate must have, if not `host`.
    """

    host: str
    port: int
    sender: str
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    implicit_tls: bool = False
    start_tls: bool = True
    must_be_encrypted: bool = False
    tls_name: str | None = None


class NoMailer:
    """The mailer of a server without a configured SMTP server."""

    async def send(self, mail: Mail) -> None:
        """Raise MailFault."""
        raise MailFault("no mail server is configured", temporary=False)


@attrs.frozen(eq=False)
class SmtpMailer:
    """Sends messages to an SMTP server.

    A cancelled caller returns at once; its message may still be delivered.
    """

    _route: SmtpRoute
    _delivery_s: float = DELIVERY_S
    _send_s: float = SEND_S
    _limiter: trio.CapacityLimiter = attrs.field(
        init=False, factory=lambda: trio.CapacityLimiter(MAX_CONCURRENT)
    )

    async def send(self, mail: Mail) -> None:
        """Send one message.

        Raises: MailFault.
        """
        message = compose_message(mail, self._route.sender)
        try:
            with trio.fail_after(self._send_s):
                await trio.to_thread.run_sync(
                    self._deliver, message, abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            raise MailFault(f"{self._route.host} is too slow", temporary=True) from None

    def _deliver(self, message: EmailMessage) -> None:
        smtp = self._make_client()
        timer = threading.Timer(self._delivery_s, _shut_down, (smtp,))
        timer.daemon = True
        timer.start()
        try:
            try:
                self._connect(smtp)
                if self._route.user is not None:
                    smtp.login(self._route.user, self._route.password or "")
                smtp.send_message(message)
            finally:
                _quit(smtp)
                timer.cancel()
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise MailFault(
                f"the mail server rejected the recipient: {error.recipients}",
                temporary=any(code < 500 for code in codes),
            ) from error
        except smtplib.SMTPNotSupportedError as error:
            raise MailFault(f"{self._route.host}: {error}", temporary=False) from error
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as error:
            raise MailFault(
                f"{self._route.host} rejected the message: {error}",
                temporary=error.smtp_code < 500,
            ) from error
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            # These include invalid certificates and wrong passwords, also passwords that are not
            # ASCII, which smtplib cannot send. They are temporary: an administrator can fix them.
            raise MailFault(
                f"{self._route.host}:{self._route.port}: {error}", temporary=True
            ) from error

    def _make_client(self) -> smtplib.SMTP:
        if self._route.implicit_tls:
            return smtplib.SMTP_SSL(timeout=TIMEOUT_S, context=self._context())
        return smtplib.SMTP(timeout=TIMEOUT_S)

    def _connect(self, smtp: smtplib.SMTP) -> None:
        route = self._route
        code, greeting = smtp.connect(route.host, route.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, greeting)
        if route.implicit_tls or not (route.start_tls or route.must_be_encrypted):
            return
        smtp.ehlo_or_helo_if_needed()
        if smtp.has_extn("starttls"):
            smtp.starttls(context=self._context())
        elif route.must_be_encrypted:
            raise smtplib.SMTPNotSupportedError("STARTTLS is required but not offered")

    def _context(self) -> ssl.SSLContext:
        context = _NamingContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        context.name = self._route.tls_name or self._route.host
        return context


def _shut_down(smtp: smtplib.SMTP) -> None:
    """Let whatever waits for the server fail at once."""
    if smtp.sock is not None:
        with contextlib.suppress(OSError):
            # The method of TLS sockets would first let a running thread go on without TLS.
            socket.socket.shutdown(smtp.sock, socket.SHUT_RDWR)


def _quit(smtp: smtplib.SMTP) -> None:
    # The message has been accepted or rejected already; a failure to say QUIT changes nothing.
    with contextlib.suppress(smtplib.SMTPException, OSError):
        smtp.docmd("QUIT")
    smtp.close()


class _NamingContext(ssl.SSLContext):
    """A TLS context that checks certificates for this name, whatever smtplib asks for."""

    name = ""

    def wrap_socket(self, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["server_hostname"] = self.name
        return super().wrap_socket(sock, *args, **kwargs)


def compose_message(mail: Mail, default_sender: str) -> EmailMessage:
    """Return the MIME message for a mail.

    Raises: MailFault, if an address or a header is invalid.
    """
    message = EmailMessage(policy=MESSAGE_POLICY)
    sender = mail.sender or default_sender
    try:
        message["From"] = sender
        message["To"] = mail.to
        message["Subject"] = " ".join(mail.subject.split())
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=_domain_of(sender))
        message["Auto-Submitted"] = "auto-generated"
        for name, value in mail.headers.items():
            message[name] = value
        message.set_content(mail.text)
        message.add_alternative(mail.html, subtype="html")
    except (ValueError, LookupError, TypeError, AttributeError, MessageError) as error:
        # The address parser of the standard library fails in all these ways.
        raise MailFault(f"the message is invalid: {error}", temporary=False) from error
    if not parseaddr(mail.to)[1]:
        raise MailFault("the recipient's address is empty", temporary=False)
    return message


def _domain_of(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2] or "localhost"
