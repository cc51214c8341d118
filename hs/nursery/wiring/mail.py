"""E-mail and pages: the mailer and the templates that several services share."""

from pathlib import Path

import attrs

from hs.lib.mail.mailer import Mailer, NoMailer, SmtpMailer, SmtpRoute
from hs.lib.mail.template_filters import FILTERS
from hs.lib.mail.templates import Templates
from hs.settings.sections.mail import SUBJECT_VARIABLES, MailSettings
from hs.settings.settings import Settings


@attrs.frozen(eq=False)
class MailServices:
    """The mailer and its templates; without configured e-mail the mailer refuses to send."""

    mailer: Mailer
    templates: Templates
    is_configured: bool


def wire_mail(settings: Settings) -> MailServices:
    """Build the mailer and the templates of e-mails."""
    templates = Templates(_folders(settings.email.template_dir, settings), FILTERS)
    route = route_of(settings.email)
    mailer = NoMailer() if route is None else SmtpMailer(route)
    return MailServices(mailer, templates, route is not None)


def wire_pages(settings: Settings) -> Templates:
    """Build the templates of web pages."""
    return Templates(_folders(None, settings), FILTERS)


def route_of(email: MailSettings) -> SmtpRoute | None:
    """Return the SMTP server and its options, or None if e-mail is not configured."""
    if email.notif_from is None:
        return None
    return SmtpRoute(
        host=email.smtp_host,
        port=email.port,
        sender=email.notif_from % {**SUBJECT_VARIABLES, "app": email.app_name},
        user=email.smtp_user,
        password=email.smtp_pass,
        implicit_tls=email.force_tls,
        start_tls=email.enable_tls,
        must_be_encrypted=email.require_transport_security,
        tls_name=email.tlsname,
    )


def _folders(own: Path | None, settings: Settings) -> list[Path]:
    folders = (own, settings.templates.custom_template_directory)
    return [folder for folder in folders if folder is not None]
