"""Declaring endpoints: `@route` on the methods of attrs classes, and `collect`, which finds them.

A declaration is the only place that names an endpoint's method, paths, authentication, rate class
and class of work. Routing, metrics and the configuration of proxies are derived from it.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import attrs

from hs.apis.web.auth import USER, Auth
from hs.apis.web.limits import WorkClass
from hs.apis.web.older_prefixes import older_forms
from hs.apis.web.request import BodyUse, RequestParser, compile_parser, request_class_of

# Returns whether the response to a request must include everything committed before it.
Fresh = Callable[[Any], bool]
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])

DEFAULT_MAX_BODY_BYTES = 1 << 20
# Where the body may be read before anything is known of the client.
UNAUTHENTICATED_MAX_BODY_BYTES = 64 * 1024
_ROUTES_ATTRIBUTE = "__hs_routes__"
_PARAMETER = re.compile(r"\{(\w+)\}")


@attrs.frozen
class Route:
    """The arguments of one `@route`."""

    method: str
    path: str
    auth: Auth
    rate: str | None
    work: WorkClass
    cancel_on_disconnect: bool
    fresh: Fresh | None
    extra_paths: tuple[str, ...]
    max_body_bytes: int
    allow_locked: bool
    resources: frozenset[str] | None


@attrs.frozen(eq=False)
class Endpoint:
    """One declared endpoint, bound to the object that handles its requests."""

    method: str
    paths: tuple[str, ...]
    auth: Auth
    rate: str | None
    work: WorkClass
    cancel_on_disconnect: bool
    fresh: Fresh | None
    max_body_bytes: int
    allow_locked: bool
    resources: frozenset[str]
    name: str
    handler: Callable[..., Awaitable[Any]]
    parser: RequestParser | None

    @property
    def pattern(self) -> str:
        """Path that identifies the endpoint in the log."""
        return self.paths[0]

    @property
    def body_use(self) -> BodyUse:
        """How much of the body is read before the handler runs."""
        return BodyUse.NOTHING if self.parser is None else self.parser.body_use


def route(
    method: str,
    path: str,
    *,
    auth: Auth = USER,
    rate: str | None = None,
    work: WorkClass = WorkClass.LIGHT,
    cancel_on_disconnect: bool = False,
    fresh: Fresh | None = None,
    extra_paths: Iterable[str] = (),
    max_body_bytes: int | None = None,
    allow_locked: bool = False,
    resources: Iterable[str] | None = None,
) -> Callable[[Handler], Handler]:
    """Declare that a method handles an endpoint; may be applied several times.

    `rate` names a rate class, and `work` the gate to pass. `cancel_on_disconnect` cancels the
    handler when the client disconnects. `fresh` selects the requests that wait until this process
    has received everything that any process has committed. `extra_paths` are further paths of the
    endpoint; every `/v3/` path is also served as `/r0/`, some at prefixes that are older still
    (`older_prefixes.py`). `allow_locked` admits locked accounts.
    `max_body_bytes` is 1 MiB by default, and 64 KiB for endpoints that need no authentication.
    `resources` overrides the listener resources, which otherwise follow from the path.
    """
    declared = Route(
        method=method,
        path=path,
        auth=auth,
        rate=rate,
        work=work,
        cancel_on_disconnect=cancel_on_disconnect,
        fresh=fresh,
        extra_paths=tuple(extra_paths),
        max_body_bytes=_default_max_body_bytes(auth) if max_body_bytes is None else max_body_bytes,
        allow_locked=allow_locked,
        resources=None if resources is None else frozenset(resources),
    )

    def mark(function: Handler) -> Handler:
        routes: list[Route] = getattr(function, _ROUTES_ATTRIBUTE, [])
        # Decorators apply from the bottom up, but are listed from the top down.
        setattr(function, _ROUTES_ATTRIBUTE, [declared, *routes])
        return function

    return mark


def _default_max_body_bytes(auth: Auth) -> int:
    return (
        UNAUTHENTICATED_MAX_BODY_BYTES
        if auth in (Auth.NONE, Auth.OPTIONAL)
        else DEFAULT_MAX_BODY_BYTES
    )


def always(_: object) -> bool:
    """Return True: the `fresh` of endpoints whose requests must all be fresh."""
    return True


def collect(*apis: object) -> list[Endpoint]:
    """Return the endpoints that the classes of these objects declare."""
    return [
        _bind(declared, api, name, function)
        for api in apis
        for name, function in vars(type(api)).items()
        for declared in getattr(function, _ROUTES_ATTRIBUTE, ())
    ]


def _bind(declared: Route, api: object, name: str, function: Callable[..., Any]) -> Endpoint:
    """Bind a declaration.

    Raises: TypeError if a path lacks a parameter that the request class requires, or if the client
    could occupy a slot of a gate by sending its body slowly.
    """
    request_class = request_class_of(function)
    parser = None if request_class is None else compile_parser(request_class)
    streams = parser is not None and parser.body_use is BodyUse.STREAM
    if streams and declared.work is not WorkClass.LIGHT:
        raise TypeError(f"{declared.path} must not read its body inside a gate")
    paths = _all_paths(declared)
    if parser is not None:
        for path in paths:
            missing = parser.path_names - set(_PARAMETER.findall(path))
            if missing:
                raise TypeError(f"{path} lacks {sorted(missing)}, required by {request_class}")
    return Endpoint(
        method=declared.method,
        paths=paths,
        auth=declared.auth,
        rate=declared.rate,
        work=declared.work,
        cancel_on_disconnect=declared.cancel_on_disconnect,
        fresh=declared.fresh,
        max_body_bytes=declared.max_body_bytes,
        allow_locked=declared.allow_locked,
        resources=declared.resources or resources_of(declared.path),
        name=f"{type(api).__name__}.{name}",
        handler=getattr(api, name),
        parser=parser,
    )


def _all_paths(declared: Route) -> tuple[str, ...]:
    paths = [declared.path, *declared.extra_paths]
    return tuple(dict.fromkeys([*paths, *(older for path in paths for older in older_forms(path))]))


_RESOURCES_BY_PREFIX: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("/_matrix/client/v1/media/", ("client", "media")),
    ("/_matrix/client/", ("client",)),
    ("/_matrix/media/", ("client", "federation", "media")),
    ("/_matrix/federation/v1/media/", ("federation", "media")),
    ("/_matrix/federation/v1/openid/", ("federation", "openid")),
    ("/_matrix/federation/", ("federation",)),
    ("/_matrix/key/", ("keys", "federation")),
    ("/_matrix/app/", ("client",)),
    ("/.well-known/matrix/server", ("client", "federation", "well_known")),
    ("/.well-known/", ("client", "well_known")),
    ("/_synapse/replication/", ("replication",)),
    ("/_synapse/metrics", ("metrics",)),
    ("/health", ("health",)),
)


def resources_of(path: str) -> frozenset[str]:
    """Return the listener resources that serve a path; `client` unless a prefix says otherwise."""
    for prefix, resources in _RESOURCES_BY_PREFIX:
        if path.startswith(prefix):
            return frozenset(resources)
    return frozenset(("client",))
