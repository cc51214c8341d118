"""The settings of outgoing HTTP clients: proxies, blocked addresses, user agent."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from hs import __version__
from hs.lib.http_client.targets import Proxies
from hs.nursery.wiring.http_clients import address_rules, chosen_proxies, user_agent
from hs.settings.errors import SettingsError
from hs.settings.load import load_settings
from hs.settings.sections.outgoing import OutgoingSettings
from hs.settings.settings import Settings

ENVIRONMENT = Proxies("http://env", "https://env", ("env.test",))


def load_text(folder: Path, text: str) -> Settings:
    path = folder / "homeserver.yaml"
    path.write_text(f"server_name: test\n{text}")
    return load_settings([path], {})


def test_each_proxy_setting_overrides_its_environment_variable() -> None:
    settings = OutgoingSettings(https_proxy="http://set", no_proxy_hosts=())

    assert chosen_proxies(settings, ENVIRONMENT) == Proxies("http://env", "http://set", ())
    assert chosen_proxies(OutgoingSettings(), ENVIRONMENT) == ENVIRONMENT


def test_user_agent_has_version_and_suffix() -> None:
    assert user_agent(OutgoingSettings()) == f"hs/{__version__}"
    assert user_agent(OutgoingSettings(user_agent_suffix="x")) == f"hs/{__version__} x"


def test_unspecified_addresses_are_always_blocked() -> None:
    rules = address_rules(("10.0.0.0/8",), ())

    assert not rules.permits(ip_address("0.0.0.0"))
    assert not rules.permits(ip_address("::"))
    assert rules.permits(ip_address("192.168.0.1"))


@pytest.mark.parametrize(
    "text",
    [
        "ip_range_blacklist: [10.0.0.0/99]",
        "url_preview_ip_range_whitelist: [x]",
        "url_preview_url_blacklist: [{hots: x}]",
        "url_preview_url_blacklist: [{path: '^('}]",
        "url_preview_url_blacklist: [{}]",
        "url_preview_url_blacklist: {path: x}",
        "oembed: {additional_providers: x}",
        "account_threepid_delegates: {msisdn: example.org}",
        "recaptcha_siteverify_api: 5",
    ],
)
def test_invalid_value_is_rejected_with_its_key(tmp_path: Path, text: str) -> None:
    key = text.partition(":")[0]

    with pytest.raises(SettingsError, match=key):
        load_text(tmp_path, text)


def test_settings_of_outgoing_requests_are_loaded(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path,
        """
http_proxy: http://proxy
url_preview_enabled: true
url_preview_ip_range_blacklist: []
max_spider_size: 1M
oembed: {disable_default_providers: true, additional_providers: [oembed.json]}
account_threepid_delegates: {msisdn: "https://sms.test"}
enable_3pid_lookup: false
""",
    )

    assert settings.outgoing.http_proxy == "http://proxy"
    assert settings.previews.url_preview_ip_range_blacklist == ()
    assert settings.previews.max_spider_size == 1 << 20
    assert settings.previews.oembed.additional_providers == (tmp_path / "oembed.json",)
    assert settings.delegates.msisdn == "https://sms.test"
    assert not settings.lookups.enable_3pid_lookup
