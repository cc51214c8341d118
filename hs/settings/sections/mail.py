"""Settings about e-mail: the server that takes it, what is mailed, and the texts."""

from pathlib import Path
from typing import Any

import attrs

from hs.settings.fields import setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    PATH,
    PORT,
    STRING,
    At,
    Kind,
    optional,
)

SMTP_PORT = 25
SMTPS_PORT = 465
PLACES = {"app": "", "server_name": "", "person": "", "room": "", "space": ""}


def _read_format(value: Any, at: At) -> str:
    text = STRING.read(value, at)
    try:
        text % PLACES
    except (KeyError, ValueError, TypeError) as error:
        at.refuse(
            f"{text!r} cannot be filled: {error}",
            "use only %(app)s, %(server_name)s, %(person)s, %(room)s, %(space)s, and %% for %",
        )
    return text


FORMAT = Kind("string with %(…)s", _read_format, {"type": "string"})


@attrs.frozen(kw_only=True)
class MailSubjects:
    """The subjects of e-mails; `%(app)s` and the like are filled in."""

    message_from_person_in_room: str = setting(
        FORMAT,
        "[%(app)s] %(person)s wrote to you in %(room)s",
        "One person, one room.",
    )
    message_from_person: str = setting(FORMAT, "[%(app)s] %(person)s wrote to you", "One person.")
    messages_from_person: str = setting(
        FORMAT,
        "[%(app)s] %(person)s wrote to you several times",
        "Several messages of one person.",
    )
    messages_in_room: str = setting(
        FORMAT, "[%(app)s] New messages in %(room)s", "Several in one room."
    )
    messages_in_room_and_others: str = setting(
        FORMAT,
        "[%(app)s] New messages in %(room)s and other rooms",
        "Several in several rooms.",
    )
    messages_from_person_and_others: str = setting(
        FORMAT,
        "[%(app)s] New messages from %(person)s and others",
        "Several of several people.",
    )
    invite_from_person: str = setting(
        FORMAT, "[%(app)s] %(person)s invites you to chat", "An invitation."
    )
    invite_from_person_to_room: str = setting(
        FORMAT,
        "[%(app)s] %(person)s invites you to %(room)s",
        "An invitation to a room.",
    )
    invite_from_person_to_space: str = setting(
        FORMAT,
        "[%(app)s] %(person)s invites you to the space %(space)s",
        "An invitation to a space.",
    )
    password_reset: str = setting(
        FORMAT, "[%(server_name)s] Choose a new password", "A password is forgotten."
    )
    email_validation: str = setting(
        FORMAT, "[%(server_name)s] Confirm your e-mail address", "An address is to be confirmed."
    )


@attrs.frozen(kw_only=True)
class MailSettings:
    """The mail server and what is mailed; nothing is mailed without `notif_from`."""

    smtp_host: str = setting(STRING, "localhost", "Host name of the mail server.")
    smtp_port: int | None = setting(
        optional(PORT), None, "Its port; 465 with `force_tls`, else 25."
    )
    smtp_user: str | None = setting(optional(STRING), None, "User name, if it wants one.")
    smtp_pass: str | None = setting(optional(STRING), None, "The password to it.")
    force_tls: bool = setting(BOOLEAN, False, "Speak TLS from the first byte.")
    require_transport_security: bool = setting(
        BOOLEAN, False, "Send nothing unless the connection is encrypted."
    )
    enable_tls: bool = setting(BOOLEAN, True, "Change to TLS where the server offers it.")
    tlsname: str | None = setting(
        optional(STRING), None, "Name in its certificate, if not that of the host."
    )
    notif_from: str | None = setting(
        optional(FORMAT), None, "Sender of e-mails, as `%(app)s <noreply@example.org>`."
    )
    app_name: str = setting(STRING, "Matrix", "Name of the service, in `%(app)s`.")
    enable_notifs: bool = setting(BOOLEAN, False, "Mail users what they have missed.")
    notif_for_new_users: bool = setting(BOOLEAN, True, "New users with an address are mailed.")
    notif_delay_before_mail: int = setting(
        DURATION,
        600_000,
        "How long a message may stay unread before it is mailed.",
        shown="10m",
    )
    client_base_url: str = setting(
        STRING,
        "https://matrix.to",
        "Web client that links in e-mails lead to.",
    )
    validation_token_lifetime: int = setting(
        DURATION, 3_600_000, "How long a link that confirms an address works.", shown="1h"
    )
    invite_client_location: str | None = setting(
        optional(STRING), None, "Web client named in invitations by e-mail.", is_effective=False
    )
    template_dir: Path | None = setting(
        optional(PATH), None, "Directory of own templates of e-mails."
    )
    subjects: MailSubjects = sub_block(MailSubjects, "Subjects of e-mails.")

    @property
    def port(self) -> int:
        """Give the port to connect to."""
        if self.smtp_port is not None:
            return self.smtp_port
        return SMTPS_PORT if self.force_tls else SMTP_PORT


@attrs.frozen(kw_only=True)
class TemplateSettings:
    """Own templates of pages and e-mails."""

    custom_template_directory: Path | None = setting(
        optional(PATH), None, "Directory of templates that replace those of the same name."
    )
