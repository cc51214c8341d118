"""Settings of e-mail: the SMTP server, notifications, and subjects."""

from pathlib import Path
from typing import Any

import attrs

from hs.settings.fields import inline_secret, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    DURATION,
    PATH,
    PORT,
    STRING,
    ConfigLocation,
    Kind,
    optional,
)

SMTP_PORT = 25
SMTPS_PORT = 465
SUBJECT_VARIABLES = {"app": "", "server_name": "", "person": "", "room": "", "space": ""}


def _read_format(value: Any, at: ConfigLocation) -> str:
    text = STRING.read(value, at)
    try:
        text % SUBJECT_VARIABLES
    except (KeyError, ValueError, TypeError) as error:
        at.reject(
            f"{text!r} is not a valid format: {error}",
            "use only %(app)s, %(server_name)s, %(person)s, %(room)s, %(space)s, and %% for %",
        )
    return text


FORMAT = Kind("string with %(…)s", _read_format, {"type": "string"})


@attrs.frozen(kw_only=True)
class MailSubjects:
    """Subjects of e-mails, with placeholders like `%(app)s`."""

    message_from_person_in_room: str = setting(
        FORMAT,
        "[%(app)s] %(person)s wrote to you in %(room)s",
        "New messages of one user in one room.",
    )
    message_from_person: str = setting(
        FORMAT, "[%(app)s] %(person)s wrote to you", "A message of one user in a room without name."
    )
    messages_from_person: str = setting(
        FORMAT,
        "[%(app)s] %(person)s wrote to you several times",
        "Several messages of one user in a room without name.",
    )
    messages_in_room: str = setting(
        FORMAT, "[%(app)s] New messages in %(room)s", "Messages in one room."
    )
    messages_in_room_and_others: str = setting(
        FORMAT,
        "[%(app)s] New messages in %(room)s and other rooms",
        "Messages in several rooms.",
    )
    messages_from_person_and_others: str = setting(
        FORMAT,
        "[%(app)s] New messages from %(person)s and others",
        "Messages of several users.",
    )
    invite_from_person: str = setting(
        FORMAT, "[%(app)s] %(person)s invites you to chat", "An invite."
    )
    invite_from_person_to_room: str = setting(
        FORMAT,
        "[%(app)s] %(person)s invites you to %(room)s",
        "An invite to a room.",
    )
    invite_from_person_to_space: str = setting(
        FORMAT,
        "[%(app)s] %(person)s invites you to the space %(space)s",
        "An invite to a space.",
    )
    password_reset: str = setting(
        FORMAT, "[%(server_name)s] Choose a new password", "A password reset."
    )
    email_validation: str = setting(
        FORMAT,
        "[%(server_name)s] Confirm your e-mail address",
        "A confirmation of an e-mail address.",
    )


@attrs.frozen(kw_only=True)
class MailSettings:
    """E-mail; nothing is sent without `notif_from`."""

    smtp_host: str = setting(STRING, "localhost", "Host name of the SMTP server.")
    smtp_port: int | None = setting(
        optional(PORT), None, "Port of the SMTP server; 465 with `force_tls`, otherwise 25."
    )
    smtp_user: str | None = setting(optional(STRING), None, "User name for SMTP authentication.")
    smtp_pass: str | None = inline_secret("Password for SMTP authentication.")
    force_tls: bool = setting(BOOLEAN, False, "Use implicit TLS instead of STARTTLS.")
    require_transport_security: bool = setting(
        BOOLEAN, False, "Send no e-mail over an unencrypted connection."
    )
    enable_tls: bool = setting(BOOLEAN, True, "Use STARTTLS if the server offers it.")
    tlsname: str | None = setting(
        optional(STRING), None, "Name in the server's certificate, if it differs from `smtp_host`."
    )
    notif_from: str | None = setting(
        optional(FORMAT),
        None,
        "Sender of e-mails, like `%(app)s <noreply@example.org>`. Without it no e-mail is sent.",
    )
    app_name: str = setting(STRING, "Matrix", "Name of the service, used for `%(app)s`.")
    enable_notifs: bool = setting(BOOLEAN, False, "Send e-mails about missed messages.")
    notif_for_new_users: bool = setting(
        BOOLEAN, True, "Enable e-mails about missed messages for new users."
    )
    notif_delay_before_mail: int = setting(
        DURATION,
        600_000,
        "Time that a message must be unread before an e-mail about it is sent.",
        shown="10m",
    )
    client_base_url: str = setting(
        STRING,
        "https://matrix.to",
        "Web client to which links in e-mails point.",
    )
    validation_token_lifetime: int = setting(
        DURATION, 3_600_000, "Lifetime of the link that confirms an address.", shown="1h"
    )
    invite_client_location: str | None = setting(
        optional(STRING), None, "Web client named in invites by e-mail.", is_effective=False
    )
    template_dir: Path | None = setting(
        optional(PATH), None, "Directory of custom e-mail templates."
    )
    subjects: MailSubjects = sub_block(MailSubjects, "Subjects of e-mails.")

    @property
    def port(self) -> int:
        """The port to connect to."""
        if self.smtp_port is not None:
            return self.smtp_port
        return SMTPS_PORT if self.force_tls else SMTP_PORT


@attrs.frozen(kw_only=True)
class TemplateSettings:
    """Custom templates of pages and e-mails."""

    custom_template_directory: Path | None = setting(
        optional(PATH),
        None,
        "Directory of templates that replace the built-in ones of the same name.",
    )
