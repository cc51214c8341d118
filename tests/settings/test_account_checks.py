"""Contradictions between settings of accounts are rejected with a remedy."""

from pathlib import Path

import pytest

from tests.settings.conftest import Load, Refused

OPEN = "enable_registration: true\n"
MAIL = 'email: {notif_from: "a <a@example.org>"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("email: {smtp_host: mail}", "email.notif_from"),
        ('email: {notif_from: "%(ap)s"}', "use only %(app)s"),
        ('email: {notif_from: a, subjects: {password_reset: "100%"}}', "subjects.password_reset"),
        (OPEN + "registrations_require_3pid: [email]", "add an `email` section"),
        (OPEN + "registrations_require_3pid: [msisdn]", "account_threepid_delegates"),
        (OPEN + MAIL + "registrations_require_3pid: [email, pigeon]", "'pigeon' is not a kind"),
        ("enable_registration_captcha: true", "recaptcha_public_key"),
        ("allowed_local_3pids: [{medium: email, pattern: '('}]", "not a regular expression"),
        ("allowed_local_3pids: [{medium: fax}]", "write one of email, msisdn"),
        ("allowed_local_3pids: [{medium: email}]", "needs medium and pattern"),
        ("allowed_local_3pids: [{medium: email, patern: a}]", "did you mean pattern?"),
        ("alias_creation_rules: [{user_id: '@a:*', actoin: deny}]", "did you mean action?"),
        ("auto_join_mxid_localpart: '@a:example.org'", "not a local part"),
        ("server_notices: {system_mxid_localpart: 'a:b'}", "not a local part"),
        ("extra_well_known_client_content: {a: {b: .nan}}", "cannot be written as JSON"),
        ("extra_well_known_client_content: {1: a}", "names in a map must be text"),
        ("jwt_config: {enabled: true}", "jwt_config.secret"),
        ("jwt_config: {enabled: true, secret: s, algorithm: none}", "'none' is not a signature"),
        ("email: {notif_from: a, template_dir: none}", "email.template_dir: "),
        ("templates: {custom_template_directory: none}", "templates.custom_template_directory: "),
        ("user_consent: {version: 1.0}", "set the directory that contains the terms"),
        ("user_consent: {require_at_registration: true}", "set the version of the terms"),
        ("user_consent: {version: 1.0, template_dir: /nowhere}", "/nowhere/en/1.0.html"),
        ("auto_join_rooms: ['#a:example.org', welcome]", "auto_join_rooms.1: 'welcome' is not"),
        ("password_config: {scheme: md5}", "write one of bcrypt, argon2id"),
    ],
)
def test_contradictions_are_rejected(refused: Refused, text: str, message: str) -> None:
    assert message in refused(text)


def test_consistent_settings_are_accepted(load: Load, tmp_path: Path) -> None:
    (tmp_path / "terms" / "en").mkdir(parents=True)
    (tmp_path / "terms" / "en" / "1.0.html").write_text("terms")

    settings = load(
        OPEN
        + MAIL
        + "registrations_require_3pid: [email]\n"
        + "jwt_config: {enabled: true, secret: s, algorithm: HS256}\n"
        + "user_consent: {version: 1.0, template_dir: terms}\n"
    )

    assert settings.email.port == 25
    assert settings.consent.version == "1.0"
    assert settings.notices == ()


def test_smtp_port_defaults_to_465_with_implicit_tls(load: Load) -> None:
    assert load("email: {notif_from: a@b, force_tls: true}").email.port == 465
    assert load("email: {notif_from: a@b, smtp_port: 587}").email.port == 587


@pytest.mark.parametrize("written", ['"false"', "'no'", "false"])
def test_registration_may_be_a_string_as_in_synapse(load: Load, written: str) -> None:
    assert load(f"enable_registration: {written}").registration.enable_registration is False


def test_registration_enabled_by_a_string_needs_verification(refused: Refused) -> None:
    assert "without verification" in refused("enable_registration: 'true'")
    assert "expected true or false" in refused("enable_registration: '${ENABLE}'")


def test_old_restriction_applies_beside_the_present_key(load: Load) -> None:
    settings = load(
        "enable_registration: true\ndisable_registration: true\n"
        "allow_public_rooms_without_auth: true\nrestrict_public_rooms_to_local_users: true\n"
    )

    assert settings.registration.enable_registration is False
    assert settings.server.allow_public_rooms_without_auth is False


def test_captcha_is_a_verification_of_registrations(load: Load) -> None:
    settings = load(
        f"{OPEN}enable_registration_captcha: true\nrecaptcha_public_key: a\n"
        "recaptcha_private_key: b\n"
    )

    assert settings.registration.enable_registration


def test_private_rooms_without_a_user_who_invites_are_reported(load: Load) -> None:
    settings = load(
        "auto_join_rooms: ['#a:example.org']\nautocreate_auto_join_room_preset: private_chat\n"
    )

    assert [notice.key for notice in settings.notices] == ["auto_join_mxid_localpart"]


def test_content_for_clients_becomes_json(load: Load) -> None:
    settings = load("extra_well_known_client_content: {a: {1: 2020-01-01}}")

    assert settings.server.extra_well_known_client_content == {"a": {"1": "2020-01-01"}}
