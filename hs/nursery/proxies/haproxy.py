"""The configuration of HAProxy."""

from collections.abc import Iterator

from hs.nursery.proxies.proxy_plan import Affinity, Backend, Pool, ProxyPlan

_HEAD = """\
# Add this to haproxy.cfg, with a certificate in the frontend. To have requests of clients that went
# away cancelled, add "option abortonclose" to its section "defaults".
frontend hs
    mode http
    # bind :443 ssl crt /etc/haproxy/{host}.pem
    # bind :8448 ssl crt /etc/haproxy/{host}.pem
    bind :8080
    option forwardfor
    option http-buffer-request
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    # A process that died may have done what a POST asked for.
    http-request disable-l7-retry if METH_POST
    timeout client 120s
    timeout http-request 15s
"""
_KEYS = {
    Affinity.CLIENT: "req.hdr(authorization)",
    Affinity.ROOM: (
        r'''"path,url_dec,regsub('^/_matrix/client/(api/v1|[^/]+)/[^/]+/([^/]+).*','\\2')"'''
    ),
    Affinity.ORIGIN: (r'''"req.hdr(authorization),regsub('.*origin=\"?([^\",]*).*','\\1',i)"'''),
}


def haproxy_config(plan: ProxyPlan) -> str:
    """Return a frontend and its backends."""
    return "\n".join(_lines(plan))


def _lines(plan: ProxyPlan) -> Iterator[str]:
    yield _HEAD.format(host=plan.host)
    for number, rule in enumerate(plan.rules):
        yield f"    # {rule.subject[0].upper()}{rule.subject[1:]}."
        yield from (f"    acl hs{number} path -m reg {path}" for path in rule.paths)
        for token in rule.tokens:  # which may begin with "-", as an option does
            yield f'    acl hs{number}_token req.hdr(authorization) -m str "Bearer {token}"'
            yield f"    acl hs{number}_token url_param(access_token) -m str -- {token}"
    known = " || ".join(f"hs{number}" for number in range(len(plan.rules)))
    yield f"    http-request deny deny_status 404 unless {known}"
    for number, rule in enumerate(plan.rules):
        if rule.initial is not None:
            is_first = f"hs{number} !{{ url_param(since) -m found }}"
            yield f"    use_backend hs_{rule.initial.name} if {is_first}"
        condition = f"hs{number} hs{number}_token" if rule.tokens else f"hs{number}"
        yield f"    use_backend hs_{rule.pool.name} if {condition}"
    yield ""
    for pool in plan.pools:
        yield from _backend(pool)


def _backend(pool: Pool) -> Iterator[str]:
    yield f"backend hs_{pool.name}"
    yield "    mode http"
    yield f"    balance hash {_KEYS[pool.affinity]}"
    yield "    hash-type consistent"
    yield "    option httpchk GET /health"
    yield "    option redispatch"
    yield "    retries 3"
    yield "    retry-on conn-failure empty-response"
    yield "    timeout connect 5s"
    yield "    timeout queue 10s"
    yield "    timeout server 120s"
    yield "    default-server check inter 2s fall 2 rise 1"
    for backend in pool.backends:
        yield f"    server {backend.name} {_address(backend)}"
    yield ""


def _address(backend: Backend) -> str:
    return f"unix@{backend.path}" if backend.path else backend.address
