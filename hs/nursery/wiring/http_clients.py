"""Outgoing HTTP: a client for each kind of target, since each has rules of its own."""

import os
import ssl

import attrs

from hs import __version__
from hs.lib.http_client.addresses import NO_RULES, AddressRules, networks
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.targets import NO_PROXIES, Proxies, proxies_of
from hs.nursery.process import Runner
from hs.nursery.process_base import Foundation
from hs.settings.sections.outgoing import NOWHERE, OutsideSettings


@attrs.frozen(eq=False, kw_only=True)
class Outside:
    """The clients of a process.

    `http` asks where users and other servers point to, `direct` as well but never through a
    proxy (identity servers), `trusted` where the administrator points to (application services),
    `previews` the links in messages.
    """

    http: BridgedHttpClient
    direct: BridgedHttpClient
    trusted: BridgedHttpClient
    previews: BridgedHttpClient

    @property
    def runners(self) -> list[tuple[str, Runner]]:
        """Close the clients when the process ends."""
        return [
            ("requests to the outside", self.http.run),
            ("direct requests to the outside", self.direct.run),
            ("requests to trusted servers", self.trusted.run),
            ("requests for previews", self.previews.run),
        ]


def wire_outside(ground: Foundation) -> Outside:
    """Build the clients; they open nothing yet."""
    settings = ground.settings.outside
    rules = address_rules(settings.ip_range_blacklist, settings.ip_range_whitelist)
    proxies = chosen_proxies(settings, proxies_of(os.environ))

    previews = ground.settings.previews
    blocked = previews.url_preview_ip_range_blacklist
    preview_rules = address_rules(
        settings.ip_range_blacklist if blocked is None else blocked,
        previews.url_preview_ip_range_whitelist,
    )

    is_unchecked = settings.use_insecure_ssl_client_just_for_testing_do_not_use
    tls = unchecked_tls() if is_unchecked else None

    def client(rules: AddressRules, proxies: Proxies) -> BridgedHttpClient:
        return BridgedHttpClient(
            ground.bridge, rules, user_agent=user_agent(settings), proxies=proxies, tls=tls
        )

    return Outside(
        http=client(rules, proxies),
        direct=client(rules, NO_PROXIES),
        trusted=client(NO_RULES, NO_PROXIES),
        previews=client(preview_rules, proxies),
    )


def unchecked_tls() -> ssl.SSLContext:
    """Make what encrypts without knowing for whom, for tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def address_rules(blocked: tuple[str, ...], allowed: tuple[str, ...]) -> AddressRules:
    """Make rules of what settings say; with nothing blocked there are none."""
    if not blocked:
        return NO_RULES
    return AddressRules(networks((*blocked, *NOWHERE)), networks(allowed))


def chosen_proxies(settings: OutsideSettings, environment: Proxies) -> Proxies:
    """Choose each value from the settings, or else from the environment."""
    bypass = settings.no_proxy_hosts
    return Proxies(
        http=settings.http_proxy or environment.http,
        https=settings.https_proxy or environment.https,
        bypass=environment.bypass if bypass is None else bypass,
    )


def user_agent(settings: OutsideSettings) -> str:
    """Tell others who asks."""
    return " ".join(filter(None, [f"hs/{__version__}", settings.user_agent_suffix]))
