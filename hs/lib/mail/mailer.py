"""Sending e-mail: one message at a time to the SMTP server that the administrator named.

Each message has a connection of its own, in a thread, since a server sends few of them.
"""

import contextlib
import smtplib
import ssl
from collections.abc import Mapping
from email import policy
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from typing import Any, Protocol

import attrs
import trio

TIMEOUT_S = 30.0
MOST_AT_ONCE = 4
MESSAGE_POLICY = policy.SMTP.clone(max_line_length=78)


@attrs.frozen(kw_only=True)
class Mail:
    """One message, as text and as HTML; `sender` None: the server's usual one."""

    to: str
    subject: str
    text: str
    html: str
    sender: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)


class MailFault(Exception):
    """A message could not be handed over; `temporary` if a later attempt may succeed."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


class Mailer(Protocol):
    """Hands messages over for delivery."""

    async def send(self, mail: Mail) -> None:
        """Hand one message over. Raises: MailFault."""
        ...


@attrs.frozen(kw_only=True)
class SmtpRoute:
    """Where messages go, and what protects them on the way there.

    `implicit_tls`: TLS from the first byte. Otherwise `start_tls` changes to TLS where the server
    offers it, and `must_be_encrypted` refuses to go on where it does not.
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
    """The answer of a server without a mail server."""

    async def send(self, mail: Mail) -> None:
        """Refuse."""
        raise MailFault("this server sends no e-mail", temporary=False)


@attrs.frozen(eq=False)
class SmtpMailer:
    """Hands messages to an SMTP server.

    A cancelled caller leaves at once; the message may still arrive.
    """

    _route: SmtpRoute
    _limiter: trio.CapacityLimiter = attrs.field(
        init=False, factory=lambda: trio.CapacityLimiter(MOST_AT_ONCE)
    )

    async def send(self, mail: Mail) -> None:
        """Hand one message over. Raises: MailFault."""
        message = written(mail, self._route.sender)
        await trio.to_thread.run_sync(
            self._hand_over, message, abandon_on_cancel=True, limiter=self._limiter
        )

    def _hand_over(self, message: EmailMessage) -> None:
        try:
            smtp = self._connected()
            try:
                if self._route.user is not None:
                    smtp.login(self._route.user, self._route.password or "")
                smtp.send_message(message)
            finally:
                _leave(smtp)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise MailFault(
                f"the address was refused: {error.recipients}",
                temporary=any(code < 500 for code in codes),
            ) from error
        except smtplib.SMTPNotSupportedError as error:
            raise MailFault(f"{self._route.host}: {error}", temporary=False) from error
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as error:
            raise MailFault(
                f"{self._route.host} refused the message: {error}",
                temporary=error.smtp_code < 500,
            ) from error
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            # Wrong certificates and passwords too, also those that are not ASCII, which smtplib
            # cannot send: an administrator mends these.
            raise MailFault(
                f"{self._route.host}:{self._route.port}: {error}", temporary=True
            ) from error

    def _connected(self) -> smtplib.SMTP:
        route = self._route
        if route.implicit_tls:
            return smtplib.SMTP_SSL(
                route.host, route.port, timeout=TIMEOUT_S, context=self._context()
            )
        smtp = smtplib.SMTP(route.host, route.port, timeout=TIMEOUT_S)
        try:
            if route.start_tls or route.must_be_encrypted:
                smtp.ehlo_or_helo_if_needed()
                if smtp.has_extn("starttls"):
                    smtp.starttls(context=self._context())
                elif route.must_be_encrypted:
                    raise smtplib.SMTPNotSupportedError("offers no STARTTLS, which is required")
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _context(self) -> ssl.SSLContext:
        context = _NamingContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        context.name = self._route.tls_name
        return context


def _leave(smtp: smtplib.SMTP) -> None:
    # How the server takes the farewell changes nothing about the message.
    with contextlib.suppress(smtplib.SMTPException, OSError):
        smtp.docmd("QUIT")
    smtp.close()


class _NamingContext(ssl.SSLContext):
    """Checks a certificate against another name than that of the host we connect to."""

    name: str | None = None

    def wrap_socket(self, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        if self.name is not None:
            kwargs["server_hostname"] = self.name
        return super().wrap_socket(sock, *args, **kwargs)


def written(mail: Mail, usual_sender: str) -> EmailMessage:
    """Write a message in the form in which it travels.

    Raises: MailFault, if an address or a header cannot be written so.
    """
    message = EmailMessage(policy=MESSAGE_POLICY)
    sender = mail.sender or usual_sender
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
        # The library's parser of addresses fails in all these ways.
        raise MailFault(f"this cannot be written as a message: {error}", temporary=False) from error
    if not parseaddr(mail.to)[1]:
        raise MailFault("there is no address to send to", temporary=False)
    return message


def _domain_of(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2] or "localhost"
