"""The configuration of nginx."""

import re
from collections.abc import Iterator, Mapping

from hs.nursery.proxies.proxy_plan import Affinity, Backend, Pool, ProxyPlan, ProxyRule

_MAPS = """\
# The client of a request: its access token, else its address.
map $http_authorization $hs_bearer {
    default $arg_access_token;
    "~^[Bb]earer (?<hs_token>.+)$" $hs_token;
}
map $hs_bearer $hs_client {
    default $hs_bearer;
    "" $remote_addr;
}
# The server that sends a request, as it states.
map $http_authorization $hs_origin {
    default $remote_addr;
    "~origin=\\"?(?<hs_name>[^\\",]+)" $hs_name;
}
# The room that a request is about.
map $uri $hs_room {
    default $hs_client;
    "~^/_matrix/client/(?:api/v1|[^/]+)/(?:rooms|join|knock)/(?<hs_room_id>[^/]+)" $hs_room_id;
}
"""
_KEYS = {Affinity.CLIENT: "$hs_client", Affinity.ORIGIN: "$hs_origin", Affinity.ROOM: "$hs_room"}
_SERVER = """\
server {{
    listen 443 ssl;
    listen [::]:443 ssl;
    # For other servers, unless /.well-known/matrix/server names port 443.
    listen 8448 ssl;
    listen [::]:8448 ssl;
    server_name {host};
    ssl_certificate /etc/ssl/{host}/fullchain.pem;
    ssl_certificate_key /etc/ssl/{host}/privkey.pem;

    client_max_body_size {megabytes}M;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    # A long poll may wait for this long.
    proxy_read_timeout 120s;
    proxy_next_upstream error timeout;
"""


def nginx_config(plan: ProxyPlan) -> str:
    """Return the configuration, for the block `http` of nginx."""
    return "\n".join(_lines(plan))


def _lines(plan: ProxyPlan) -> Iterator[str]:
    yield _MAPS
    targets: dict[ProxyRule, str] = {}
    service = None
    for number, rule in enumerate(plan.rules):
        if rule.tokens:
            service = f"$hs_service{number}"
            yield from _map_of_tokens(service, rule)
            continue
        targets[rule] = f"hs_{rule.pool.name}"
        if rule.initial is not None:
            first = {"": f"hs_{rule.initial.name}"}
            yield from _map("$arg_since", f"$hs_sync{number}", targets[rule], first)
            targets[rule] = f"$hs_sync{number}"
        if service is not None:
            yield from _map(service, f"$hs_pool{number}", service, {"": targets[rule]})
            targets[rule] = f"$hs_pool{number}"
    for pool in plan.pools:
        yield from _upstream(pool)
    yield _SERVER.format(host=plan.host, megabytes=-(-plan.max_upload_bytes // 2**20))
    for rule, target in targets.items():
        yield f"    # {rule.subject[0].upper()}{rule.subject[1:]}."
        for path in rule.paths:
            # Without a path behind the name, nginx passes the path on as it came.
            yield f'    location ~ "{path}" {{'
            yield f"        proxy_pass http://{target};"
            yield "    }"
        yield ""
    yield "}\n"


def _map(source: str, target: str, default: str, values: Mapping[str, str]) -> Iterator[str]:
    yield f"map {source} {target} {{"
    yield f"    default {default};"
    yield from (f'    "{value}" {result};' for value, result in values.items())
    yield "}\n"


def _map_of_tokens(target: str, rule: ProxyRule) -> Iterator[str]:
    # Locations are chosen by the path alone, so the pool is a variable of the later ones. Plain
    # strings of this length would need another map_hash_bucket_size.
    tokens = {f"~^{re.escape(token)}$": f"hs_{rule.pool.name}" for token in rule.tokens}
    yield f"# {rule.subject[0].upper()}{rule.subject[1:]}."
    yield from _map("$hs_bearer", target, '""', tokens)


def _upstream(pool: Pool) -> Iterator[str]:
    yield f"upstream hs_{pool.name} {{"
    yield f"    hash {_KEYS[pool.affinity]} consistent;"
    for backend in pool.backends:
        yield f"    server {_address(backend)};  # {backend.name}"
    yield "    keepalive 32;"
    yield "}\n"


def _address(backend: Backend) -> str:
    return f"unix:{backend.path}" if backend.path else backend.address
