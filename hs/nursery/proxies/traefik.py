"""The configuration of Traefik: a file for its file provider."""

from typing import Any

import yaml

from hs.nursery.proxies.proxy_plan import Pool, ProxyPlan
from hs.settings.errors import Problem, SettingsError

_HEAD = """\
# For the file provider of Traefik 3. Traefik cannot choose a process by the access token, the room
# or the server that sends, so caches of the processes are used less well than with other proxies.
"""


def traefik_config(plan: ProxyPlan) -> str:
    """Return routers and services. Raises: SettingsError, if a process listens on a UNIX socket."""
    routers: dict[str, Any] = {}
    priority = 10 * len(plan.rules) + 10
    for number, rule in enumerate(plan.rules):
        paths = " || ".join(f"PathRegexp(`{path}`)" for path in rule.paths)
        match = f"Host(`{plan.host}`) && ({paths})"
        if rule.tokens:
            match += f" && ({' || '.join(map(_has_token, rule.tokens))})"
        priority -= 10
        if rule.initial is not None:
            without_since = f"{match} && !QueryRegexp(`since`, `.+`)"
            routers[f"hs{number}-initial"] = _router(without_since, rule.initial, priority + 1)
        routers[f"hs{number}"] = _router(match, rule.pool, priority)
    services = {f"hs-{pool.name}": _service(pool) for pool in plan.pools}
    document = {"http": {"routers": routers, "services": services}}
    return _HEAD + yaml.safe_dump(document, sort_keys=False, width=1000)


def _has_token(token: str) -> str:
    return f"Header(`Authorization`, `Bearer {token}`) || Query(`access_token`, `{token}`)"


def _router(match: str, pool: Pool, priority: int) -> dict[str, Any]:
    return {
        "rule": match,
        "priority": priority,
        "service": f"hs-{pool.name}",
        "entryPoints": ["websecure"],
        "tls": {},
    }


def _service(pool: Pool) -> dict[str, Any]:
    for backend in pool.backends:
        if backend.path:
            message = f"{backend.name} listens on a Unix socket, which Traefik cannot use"
            problem = Problem(key="worker_listeners", message=message, remedy="use a port")
            raise SettingsError([problem])
    return {
        "loadBalancer": {
            "servers": [{"url": f"http://{backend.address}"} for backend in pool.backends],
            "healthCheck": {"path": "/health", "interval": "2s"},
        }
    }
