"""Checks between settings of accounts, e-mail, log-in and terms."""

import os
from collections.abc import Callable

from hs.lib.optional_libraries import is_installed
from hs.settings.sections.mail import MailSettings
from hs.settings.settings import Settings

AddProblem = Callable[[str, str, str], None]

_ALGORITHMS = (
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES256K", "ES384", "ES512", "EdDSA"),
)


def check_accounts(settings: Settings, add_problem: AddProblem) -> None:
    """Report every contradiction to `add_problem`."""
    _check_mail(settings, add_problem)
    _check_templates(settings, add_problem)
    _check_addresses(settings, add_problem)
    _check_captcha(settings, add_problem)
    _check_jwt(settings, add_problem)
    _check_consent(settings, add_problem)
    _check_localparts(settings, add_problem)


def _check_mail(settings: Settings, add_problem: AddProblem) -> None:
    if settings.email != MailSettings() and settings.email.notif_from is None:
        add_problem(
            "email.notif_from",
            "missing, so e-mails have no sender",
            'add a sender, such as `notif_from: "%(app)s <noreply@example.org>"`',
        )


def _check_templates(settings: Settings, add_problem: AddProblem) -> None:
    folders = {
        "email.template_dir": settings.email.template_dir,
        "templates.custom_template_directory": settings.templates.custom_template_directory,
    }
    for key, folder in folders.items():
        if folder is None:
            continue
        if not folder.is_dir():
            message = f"{folder} is not a directory, so none of its templates would be used"
            add_problem(key, message, "correct the path, or remove the key")
        elif not os.access(folder, os.R_OK | os.X_OK):
            message = f"{folder} cannot be read, so none of its templates would be used"
            add_problem(key, message, "correct the permissions, or remove the key")


def _check_addresses(settings: Settings, add_problem: AddProblem) -> None:
    required = settings.registration.registrations_require_3pid
    for medium in required:
        if medium not in ("email", "msisdn"):
            add_problem(
                "registrations_require_3pid",
                f"{medium!r} is not a kind of third-party identifier",
                "use `email` and `msisdn`",
            )
    if "email" in required and settings.email.notif_from is None:
        add_problem(
            "registrations_require_3pid",
            "new users must confirm an e-mail address, but no mail server is configured",
            "add an `email` section with `notif_from`",
        )
    if "msisdn" not in required:
        return
    if settings.delegates.msisdn is None:
        add_problem(
            "registrations_require_3pid",
            "new users must confirm a phone number, but no service sends text messages",
            "set `account_threepid_delegates: {msisdn: https://…}`",
        )
    if settings.threepids.disable_msisdn_registration:
        add_problem(
            "disable_msisdn_registration",
            "true, but registrations_require_3pid requires phone numbers",
            "remove it, or remove `msisdn` from registrations_require_3pid",
        )


def _check_captcha(settings: Settings, add_problem: AddProblem) -> None:
    if not settings.threepids.enable_registration_captcha:
        return
    for key in ("recaptcha_public_key", "recaptcha_private_key"):
        if getattr(settings.captcha, key) is None:
            add_problem(
                key,
                "missing, but enable_registration_captcha is true",
                f"add {key}, which Google issues for your site",
            )


def _check_jwt(settings: Settings, add_problem: AddProblem) -> None:
    jwt = settings.jwt
    if not jwt.enabled:
        return
    for key in ("secret", "algorithm"):
        if getattr(jwt, key) is None:
            add_problem(
                f"jwt_config.{key}", "missing, but jwt_config.enabled is true", f"add {key}"
            )
    if jwt.algorithm is not None and jwt.algorithm not in _ALGORITHMS:
        add_problem(
            "jwt_config.algorithm",
            f"{jwt.algorithm!r} is not a signature algorithm, so all tokens would be rejected",
            f"write one of {', '.join(_ALGORITHMS)}",
        )
    if not is_installed("jwt"):
        add_problem(
            "jwt_config.enabled",
            "true, but the library PyJWT is not installed",
            "run `pip install 'hs[jwt]'`, or set it to false",
        )


def _check_consent(settings: Settings, add_problem: AddProblem) -> None:
    consent = settings.consent
    if consent.version is None:
        if consent.template_dir is not None or consent.require_at_registration:
            add_problem(
                "user_consent.version", "missing", "set the version of the terms, such as `1.0`"
            )
        return
    if consent.template_dir is None:
        add_problem(
            "user_consent.template_dir", "missing", "set the directory that contains the terms"
        )
        return
    page = consent.template_dir / "en" / f"{consent.version}.html"
    if not page.is_file():
        add_problem(
            "user_consent.template_dir",
            f"{page} does not exist",
            "put the terms into this file, or correct the path or user_consent.version",
        )


def _check_localparts(settings: Settings, add_problem: AddProblem) -> None:
    localparts = {
        "server_notices.system_mxid_localpart": settings.server_notices.system_mxid_localpart,
        "auto_join_mxid_localpart": settings.rooms.auto_join_mxid_localpart,
    }
    for key, localpart in localparts.items():
        if localpart and (localpart.startswith("@") or ":" in localpart):
            add_problem(key, f"{localpart!r:.80} is not a local part", "write it without @ and :")
