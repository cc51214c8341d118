"""What must hold between the settings of accounts."""

import importlib.util
from collections.abc import Callable

from hs.settings.sections.mail import MailSettings
from hs.settings.settings import Settings

Refuse = Callable[[str, str, str], None]


def check_accounts(settings: Settings, refuse: Refuse) -> None:
    """Report every contradiction."""
    _check_mail(settings, refuse)
    _check_addresses(settings, refuse)
    _check_captcha(settings, refuse)
    _check_jwt(settings, refuse)
    _check_consent(settings, refuse)


def _check_mail(settings: Settings, refuse: Refuse) -> None:
    if settings.email != MailSettings() and settings.email.notif_from is None:
        refuse(
            "email.notif_from",
            "missing, so e-mails would have no sender",
            'add a sender, such as `notif_from: "%(app)s <noreply@example.org>"`',
        )


def _check_addresses(settings: Settings, refuse: Refuse) -> None:
    required = settings.registration.registrations_require_3pid
    for medium in required:
        if medium not in ("email", "msisdn"):
            refuse(
                "registrations_require_3pid", f"{medium!r} is no kind of address",
                "use email and msisdn",
            )  # fmt: skip
    if "email" in required and settings.email.notif_from is None:
        refuse(
            "registrations_require_3pid",
            "e-mail addresses are required, but there is no mail server to check them",
            "add an `email` section",
        )
    if "msisdn" not in required:
        return
    if settings.delegates.msisdn is None:
        refuse(
            "registrations_require_3pid",
            "telephone numbers are required, but nobody sends text messages to check them",
            "set `account_threepid_delegates: {msisdn: https://…}`",
        )
    if settings.threepids.disable_msisdn_registration:
        refuse(
            "disable_msisdn_registration",
            "true, while registrations_require_3pid asks for telephone numbers",
            "remove one of them",
        )


def _check_captcha(settings: Settings, refuse: Refuse) -> None:
    if not settings.threepids.enable_registration_captcha:
        return
    for key in ("recaptcha_public_key", "recaptcha_private_key"):
        if getattr(settings.captcha, key) is None:
            refuse(key, "missing, but enable_registration_captcha is true", f"add {key}")


def _check_jwt(settings: Settings, refuse: Refuse) -> None:
    jwt = settings.jwt
    if not jwt.enabled:
        return
    for key in ("secret", "algorithm"):
        if getattr(jwt, key) is None:
            refuse(f"jwt_config.{key}", "missing", f"add {key}")
    if importlib.util.find_spec("jwt") is None:
        refuse(
            "jwt_config.enabled",
            "true, but the library for JSON web tokens is not installed",
            "pip install 'hs[jwt]'",
        )


def _check_consent(settings: Settings, refuse: Refuse) -> None:
    consent = settings.consent
    if consent.version is None:
        if consent.template_dir is not None or consent.require_at_registration:
            refuse("user_consent.version", "missing", "give the terms a version, such as `1.0`")
        return
    if consent.template_dir is None:
        refuse("user_consent.template_dir", "missing", "name the directory of the terms")
        return
    page = consent.template_dir / "en" / f"{consent.version}.html"
    if not page.is_file():
        refuse(
            "user_consent.template_dir", f"there is no {page}", "put the text of the terms there"
        )
