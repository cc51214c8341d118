"""The configuration of Caddy."""

from collections.abc import Iterator

from hs.nursery.proxies.proxy_plan import Affinity, Backend, Pool, ProxyPlan

# Caddy cannot take a part of a header or path: the requests of a server are told by its address,
# and of those about a room the ones with the same path go to one process. It sees tokens of
# application services in the header only.
_POLICIES = {
    Affinity.CLIENT: "header Authorization",
    Affinity.ORIGIN: "ip_hash",
    Affinity.ROOM: "uri_hash",
}


def caddy_config(plan: ProxyPlan) -> str:
    """Return the block of a site in the Caddyfile."""
    return "\n".join(_lines(plan))


def _lines(plan: ProxyPlan) -> Iterator[str]:
    yield f"{plan.host}, {plan.host}:8448 {{"
    yield "\trequest_body {"
    yield f"\t\tmax_size {plan.max_upload_bytes}"
    yield "\t}\n"
    for number, rule in enumerate(plan.rules):
        yield f"\t# {rule.subject[0].upper()}{rule.subject[1:]}."
        paths = "|".join(f"({path})" for path in rule.paths)
        if rule.initial is not None:
            yield f"\t@hs{number}_initial {{"
            yield f"\t\tpath_regexp {paths}"
            yield "\t\tnot query since=*"
            yield "\t}"
            yield from _handle(f"hs{number}_initial", rule.initial)
        if rule.tokens:
            yield f"\t@hs{number} {{"
            yield f"\t\tpath_regexp {paths}"
            yield from (f'\t\theader Authorization "Bearer {token}"' for token in rule.tokens)
            yield "\t}"
        else:
            yield f"\t@hs{number} path_regexp {paths}"
        yield from _handle(f"hs{number}", rule.pool)
    yield "}\n"


def _handle(name: str, pool: Pool) -> Iterator[str]:
    yield f"\thandle @{name} {{"
    yield f"\t\treverse_proxy {' '.join(map(_address, pool.backends))} {{"
    yield f"\t\t\tlb_policy {_POLICIES[pool.affinity]}"
    yield "\t\t\tlb_try_duration 5s"
    yield "\t\t\thealth_uri /health"
    yield "\t\t\thealth_interval 2s"
    yield "\t\t}"
    yield "\t}\n"


def _address(backend: Backend) -> str:
    return f"unix/{backend.path}" if backend.path else backend.address
