"""Keys that restrict or identify and have no effect keep the server from starting."""

import pytest

from hs.settings.ineffective import RESTRICTING_KEYS
from hs.settings.legacy import LEGACY_KEYS
from hs.settings.registry import REGISTRY
from tests.settings.conftest import Load, Refused

ACTIVE = {
    "modules": "[{module: spam.Checker, config: {}}]",
    "spam_checker": "{module: spam.Checker}",
    "third_party_event_rules": "{module: rules.Rules}",
    "password_providers": "[{module: ldap_auth_provider.LdapAuthProvider, config: {}}]",
    "ldap_config": "{enabled: true}",
    "oidc_providers": "[{idp_id: x, idp_name: X, issuer: 'https://x.org', client_id: c}]",
    "oidc_config": "{enabled: true}",
    "saml2_config": "{sp_config: {}, config_path: saml.py}",
    "saml2_enabled": "true",
    "cas_config": "{enabled: true, server_url: 'https://cas.example.org'}",
    "matrix_authentication_service": "{enabled: true, endpoint: 'http://mas', secret: s}",
    "experimental_features.msc3861": "{enabled: true}",
    "experimental_features.msc3866": "{enabled: true, require_approval_for_new_accounts: true}",
    "account_validity": "{enabled: true, period: 6w}",
    "limit_usage_by_mau": "true",
    "enable_local_media_storage": "false",
    "limit_large_remote_room_joins": "{enabled: true}",
}
INACTIVE = {
    "modules": "[]",
    "spam_checker": "",
    "third_party_event_rules": "{}",
    "password_providers": "[]",
    "ldap_config": "{enabled: false}",
    "oidc_providers": "[]",
    "oidc_config": "{enabled: false, issuer: x}",
    "saml2_config": "{user_mapping_provider: {config: {}}}",
    "saml2_enabled": "false",
    "cas_config": "{server_url: 'https://cas.example.org'}",
    "matrix_authentication_service": "{enabled: false, endpoint: x}",
    "experimental_features.msc3861": "{enabled: false}",
    "experimental_features.msc3866": "{enabled: true, require_approval_for_new_accounts: false}",
    "account_validity": "",
    "limit_usage_by_mau": "false",
    "enable_local_media_storage": "true",
    "limit_large_remote_room_joins": "{enabled: false}",
}


def written(key: str, value: str) -> str:
    """Return the line that sets a key, or a key in a block."""
    name, _, inner = key.partition(".")
    return f"{name}: {{{inner}: {value}}}" if inner else f"{name}: {value}"


@pytest.mark.parametrize("key", ACTIVE)
def test_active_restriction_refuses_the_start(refused: Refused, key: str) -> None:
    message = refused(written(key, ACTIVE[key]))

    assert f"0.yaml:2: {key}: has no effect in this version: " in message
    assert f"`--allow-ineffective {key}`" in message


@pytest.mark.parametrize("key", ACTIVE)
def test_allowed_restriction_is_a_warning(load: Load, key: str) -> None:
    settings = load(written(key, ACTIVE[key]), allow_ineffective=[key])

    warnings = [notice.key for notice in settings.notices if notice.is_warning]
    assert warnings == [key]


@pytest.mark.parametrize("key", INACTIVE)
def test_inactive_restriction_does_not_refuse_the_start(load: Load, key: str) -> None:
    load(written(key, INACTIVE[key]))


def test_all_restrictions_are_reported_at_once(refused: Refused) -> None:
    message = refused("modules: [{module: a.B}]\nlimit_usage_by_mau: true\nbcrypt_rounds: 99")

    assert "modules" in message
    assert "limit_usage_by_mau" in message
    assert "bcrypt_rounds" in message


def test_restriction_of_wrong_type_refuses_the_start(refused: Refused) -> None:
    assert "modules: " in refused("modules: spam.Checker")


def test_allowing_one_key_does_not_allow_another(load: Load, refused: Refused) -> None:
    message = refused(
        "modules: [{module: a.B}]\nlimit_usage_by_mau: true", allow_ineffective=["modules"]
    )

    assert "limit_usage_by_mau" in message
    assert "modules" not in message


def test_every_restriction_is_tested_and_without_effect() -> None:
    assert ACTIVE.keys() == RESTRICTING_KEYS
    assert ACTIVE.keys() == INACTIVE.keys()
    for key in ACTIVE:
        assert "." in key or key in LEGACY_KEYS or not REGISTRY[key].is_effective


def test_old_list_of_blocked_networks_is_added_to_the_present_one(load: Load) -> None:
    alone = load("federation_ip_range_blacklist: [1.2.3.0/24]").outgoing.ip_range_blacklist
    beside = load("federation_ip_range_blacklist: [1.2.3.0/24]\nip_range_blacklist: [9.0.0.0/8]")

    assert {"1.2.3.0/24", "10.0.0.0/8"} <= set(alone)
    assert beside.outgoing.ip_range_blacklist == ("9.0.0.0/8", "1.2.3.0/24")


def test_limit_of_more_users_than_fit_does_not_refuse_the_start(load: Load) -> None:
    settings = load("limit_usage_by_mau: true\nmax_mau_value: 50000000")

    assert "limit_usage_by_mau" in {notice.key for notice in settings.notices}


def test_limit_that_some_server_could_reach_refuses_the_start(refused: Refused) -> None:
    message = refused("limit_usage_by_mau: true\nmax_mau_value: 9999999")

    assert "limit_usage_by_mau" in message
