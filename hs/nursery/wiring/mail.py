"""E-mail and pages: the mailer and the templates that several services share."""

from pathlib import Path

import attrs

from hs.lib.mail.mailer import Mailer, NoMailer, SmtpMailer, SmtpRoute
from hs.lib.mail.template_filters import FILTERS
from hs.lib.mail.templates import Templates
from hs.settings.sections.mail import PLACES, MailSettings
from hs.settings.settings import Settings


@attrs.frozen(eq=False)
class MailRoom:
    """What writes and sends e-mails; `mailer` refuses where `is_open` is False."""

    mailer: Mailer
    templates: Templates
    is_open: bool


def wire_mail(settings: Settings) -> MailRoom:
    """Build what writes and sends e-mails."""
    templates = Templates(_folders(settings.email.template_dir, settings), FILTERS)
    route = route_of(settings.email)
    mailer = NoMailer() if route is None else SmtpMailer(route)
    return MailRoom(mailer, templates, route is not None)


def wire_pages(settings: Settings) -> Templates:
    """Build what writes web pages."""
    return Templates(_folders(None, settings))


def route_of(email: MailSettings) -> SmtpRoute | None:
    """Give the way to the mail server, if e-mail is set up."""
    if email.notif_from is None:
        return None
    return SmtpRoute(
        host=email.smtp_host,
        port=email.port,
        sender=email.notif_from % {**PLACES, "app": email.app_name},
        user=email.smtp_user,
        password=email.smtp_pass,
        implicit_tls=email.force_tls,
        start_tls=email.enable_tls,
        must_be_encrypted=email.require_transport_security,
        tls_name=email.tlsname,
    )


def _folders(own: Path | None, settings: Settings) -> list[Path]:
    found = (own, settings.templates.custom_template_directory)
    return [folder for folder in found if folder is not None]
