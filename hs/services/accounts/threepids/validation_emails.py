"""Validation e-mails and the links in them."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final
from urllib.parse import urlencode

import attrs

from hs.core.errors import InvalidParam, Unavailable
from hs.lib.mail.mailer import Mail, Mailer, MailFault
from hs.lib.mail.templates import Templates
from hs.settings.sections.mail import SUBJECT_VARIABLES, MailSettings


class ValidationPurpose(Enum):
    """The purpose of a validation; its session is valid for no other purpose."""

    REGISTER = "register"
    RESET = "password"
    ADD = "3pid"


SUBMIT_PATHS: Final[Mapping[ValidationPurpose, str]] = MappingProxyType(
    {
        ValidationPurpose.REGISTER: "/_matrix/client/unstable/registration/email/submit_token",
        ValidationPurpose.RESET: "/_synapse/client/password_reset/email/submit_token",
        ValidationPurpose.ADD: "/_matrix/client/unstable/add_threepid/email/submit_token",
    }
)
PHONE_SUBMIT_PATH: Final = "/_matrix/client/unstable/add_threepid/msisdn/submit_token"
# Names of the template files, which administrators can override.
TEMPLATES: Final[Mapping[ValidationPurpose, str]] = MappingProxyType(
    {
        ValidationPurpose.REGISTER: "registration",
        ValidationPurpose.RESET: "password_reset",
        ValidationPurpose.ADD: "add_threepid",
    }
)


@attrs.frozen(eq=False)
class ValidationEmails:
    """The sender of validation e-mails."""

    _mailer: Mailer
    _templates: Templates
    _settings: MailSettings
    _server_name: str
    _base_url: str
    is_enabled: bool

    async def send_link(
        self, purpose: ValidationPurpose, address: str, sid: str, client_secret: str, token: str
    ) -> None:
        """Send the link that validates the address. Raises: InvalidParam, Unavailable."""
        query = urlencode({"token": token, "client_secret": client_secret, "sid": sid})
        link = f"{self.url_of(SUBMIT_PATHS[purpose])}?{query}"
        subjects = self._settings.subjects
        subject = (
            subjects.password_reset
            if purpose is ValidationPurpose.RESET
            else subjects.email_validation
        )
        await self._send(address, TEMPLATES[purpose], subject, link)

    async def send_already_in_use(self, address: str) -> None:
        """Notify the owner of an address that an account with it exists already.

        Raises: InvalidParam, Unavailable.
        """
        await self._send(address, "already_in_use", self._settings.subjects.email_validation, "")

    def url_of(self, path: str) -> str:
        """Return the public URL of a path of this server."""
        return self._base_url.rstrip("/") + path

    async def _send(self, address: str, name: str, subject: str, link: str) -> None:
        substitutions = {
            **SUBJECT_VARIABLES,
            "app": self._settings.app_name,
            "server_name": self._server_name,
        }
        values = {
            "app_name": self._settings.app_name,
            "server_name": self._server_name,
            "email": address,
            "link": link,
        }
        mail = Mail(
            to=address,
            subject=subject % substitutions,
            text=self._templates.render(f"{name}.txt", **values),
            html=self._templates.render(f"{name}.html", **values),
        )
        try:
            await self._mailer.send(mail)
        except MailFault as error:
            if error.temporary:
                raise Unavailable(f"The e-mail could not be sent: {error}") from error
            raise InvalidParam("E-mail cannot be delivered to this address") from error
