"""Outgoing HTTP: one client for each kind of target, since each has its own rules."""

import os
import ssl

import attrs

from hs import __version__
from hs.lib.default_tls import default_tls
from hs.lib.http_client import HttpClient
from hs.lib.http_client.addresses import ALLOW_ALL, AddressRules, parse_networks
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.directed import DirectedHttpClient
from hs.lib.http_client.downloads import Downloads, HttpsDownloads
from hs.lib.http_client.sessions import HttpSessions
from hs.lib.http_client.targets import NO_PROXIES, Proxies, proxies_from_environment
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.settings.sections.outgoing import UNSPECIFIED_NETWORKS, OutgoingSettings


@attrs.frozen(eq=False, kw_only=True)
class HttpClients:
    """The HTTP clients of a process.

    `public` requests URLs that users and other servers choose; `direct` does so without a forward
    proxy (identity servers); `trusted` requests URLs that the administrator configured
    (application services); `previews` requests the links in messages; `downloads` receives large
    files from URLs that other servers choose.
    """

    public: HttpClient
    direct: HttpClient
    trusted: HttpClient
    previews: HttpClient
    downloads: Downloads
    part: Part = attrs.Factory(Part)


def wire_http_clients(base: ProcessBase) -> HttpClients:
    """Build the clients; they open no connection yet."""
    settings = base.settings.outgoing
    rules = address_rules(settings.ip_range_blacklist, settings.ip_range_whitelist)
    proxies = chosen_proxies(settings, proxies_from_environment(os.environ))

    link_settings = base.settings.previews
    blocked = link_settings.url_preview_ip_range_blacklist
    preview_rules = address_rules(
        settings.ip_range_blacklist if blocked is None else blocked,
        link_settings.url_preview_ip_range_whitelist,
    )

    is_unchecked = settings.use_insecure_ssl_client_just_for_testing_do_not_use
    tls = unchecked_tls() if is_unchecked else None

    def client(rules: AddressRules, proxies: Proxies) -> BridgedHttpClient:
        sessions = HttpSessions(base.bridge, rules, proxies=proxies, tls=tls)
        return BridgedHttpClient(sessions, user_agent(settings))

    public, direct = client(rules, proxies), client(rules, NO_PROXIES)
    trusted, previews = client(ALLOW_ALL, NO_PROXIES), client(preview_rules, proxies)
    # They close their connections when the process ends.
    directed = DirectedHttpClient(rules, proxies)
    runners = [
        ("HTTP client for public addresses", public.sessions.run),
        ("HTTP client without proxy", direct.sessions.run),
        ("HTTP client for configured addresses", trusted.sessions.run),
        ("HTTP client for URL previews", previews.sessions.run),
        ("HTTP client for downloads", directed.run),
    ]
    return HttpClients(
        public=public,
        direct=direct,
        trusted=trusted,
        previews=previews,
        downloads=HttpsDownloads(directed, user_agent(settings), tls or default_tls()),
        part=Part(runners=runners),
    )


def unchecked_tls() -> ssl.SSLContext:
    """Return a TLS context that verifies no certificate, for tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def address_rules(blocked: tuple[str, ...], allowed: tuple[str, ...]) -> AddressRules:
    """Return the address rules of these settings; without blocked ranges there are none."""
    if not blocked:
        return ALLOW_ALL
    return AddressRules(parse_networks((*blocked, *UNSPECIFIED_NETWORKS)), parse_networks(allowed))


def chosen_proxies(settings: OutgoingSettings, environment: Proxies) -> Proxies:
    """Return the proxies of the settings, or else of the environment."""
    bypass = settings.no_proxy_hosts
    return Proxies(
        http=settings.http_proxy or environment.http,
        https=settings.https_proxy or environment.https,
        bypass=environment.bypass if bypass is None else bypass,
    )


def user_agent(settings: OutgoingSettings) -> str:
    """Return the User-Agent header of outgoing requests."""
    return " ".join(filter(None, [f"hs/{__version__}", settings.user_agent_suffix]))
