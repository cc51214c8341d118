"""Checks of the way that clients take: the reverse proxy, and what it must not pass on."""

import json
from collections.abc import Callable
from typing import Any, Final

from hs.lib.aio import Bridge
from hs.lib.http_client import HttpClient, HttpFault, HttpResponse
from hs.lib.http_client.addresses import ALLOW_ALL
from hs.lib.http_client.bridged import BridgedHttpClient
from hs.lib.http_client.sessions import HttpSessions
from hs.nursery.wiring.http_clients import unchecked_tls, user_agent
from hs.repl.calls.sender import LINK_PATH
from hs.services.federation_client.peer_check import CheckStep
from hs.settings.settings import Settings

TIMEOUT_S: Final = 10.0
_REDIRECTS: Final = 3

Report = Callable[[CheckStep], None]


async def check_proxy(settings: Settings, bridge: Bridge, report: Report) -> None:
    """Report whether clients reach the server at `public_baseurl`, and find that by its name."""
    base_url = settings.server.public_baseurl
    if base_url is None:
        report(CheckStep("reverse proxy", "not checked: public_baseurl is missing", None))
        return
    is_unchecked = settings.outgoing.use_insecure_ssl_client_just_for_testing_do_not_use
    tls = unchecked_tls() if is_unchecked else None
    sessions = HttpSessions(bridge, ALLOW_ALL, tls=tls)
    client = BridgedHttpClient(sessions, user_agent(settings.outgoing))
    try:
        await check_addresses(client, base_url, settings.server.server_name, report)
    finally:
        await sessions.aclose()


async def check_addresses(
    client: HttpClient, base_url: str, server_name: str, report: Report
) -> None:
    """Report what answers at a public address, and whether the well-known file names it."""
    base = base_url.rstrip("/")
    versions = await _get(client, f"{base}/_matrix/client/versions")
    if isinstance(versions, str):
        report(CheckStep("reverse proxy", f"{base} does not answer: {versions}", False))
        return
    if versions.status != 200 or "versions" not in _object_in(versions):
        text = f"{base}/_matrix/client/versions has status {versions.status}, not the versions"
        report(CheckStep("reverse proxy", f"{text}: it must pass on /_matrix unchanged", False))
        return
    report(CheckStep("reverse proxy", f"{base} answers with the versions"))
    internal = await _get(client, f"{base}{LINK_PATH}")
    if not isinstance(internal, str) and internal.status == 401:
        text = f"passes {LINK_PATH} to a replication listener, which must not be reachable"
        report(CheckStep("reverse proxy", text, False))
    report(await _check_well_known(client, base, server_name))


async def _check_well_known(client: HttpClient, base: str, server_name: str) -> CheckStep:
    url = f"https://{server_name}/.well-known/matrix/client"
    answer = await _get(client, url)
    if isinstance(answer, str) or answer.status != 200:
        reason = answer if isinstance(answer, str) else f"status {answer.status}"
        text = f"{url}: {reason}; users must enter {base}"
        return CheckStep("well-known file", text, None)
    homeserver = _object_in(answer).get("m.homeserver")
    named = homeserver.get("base_url") if isinstance(homeserver, dict) else None
    if not isinstance(named, str) or named.rstrip("/") != base:
        text = f"{url} names {named!s:.200}, not {base}"
        return CheckStep("well-known file", text, False)
    return CheckStep("well-known file", f"{url} names {base}")


async def _get(client: HttpClient, url: str) -> HttpResponse | str:
    """Return the response, or why there is none."""
    try:
        return await client.send("GET", url, timeout_s=TIMEOUT_S, redirects=_REDIRECTS)
    except HttpFault as fault:
        return fault.message


def _object_in(response: HttpResponse) -> dict[str, Any]:
    try:
        parsed = json.loads(response.body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
