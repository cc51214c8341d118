"""Declaring endpoints: `@route` on methods of attrs classes, and `collect` that finds them again.

A declaration is the one place that knows an endpoint's method, paths, authentication, rate
class and class of work; routing, metrics and the proxies' configuration are derived from it.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import attrs

from hs.apis.web.auth import USER, Auth
from hs.apis.web.limits import Work
from hs.apis.web.request import BodyUse, RequestParser, parser_of, request_class_of

Fresh = Callable[[Any], bool]  # of the request object
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])

DEFAULT_MAX_BODY_BYTES = 1 << 20
_DECLARED = "__hs_routes__"
_PARAMETER = re.compile(r"\{(\w+)\}")


@attrs.frozen
class Route:
    """What `@route` was told."""

    method: str
    path: str
    auth: Auth
    rate: str | None
    work: Work
    waits: bool
    fresh: Fresh | None
    also: tuple[str, ...]
    max_body_bytes: int
    locked_may: bool
    resources: frozenset[str] | None


@attrs.frozen(eq=False)
class Endpoint:
    """One declared endpoint, bound to the object that answers it."""

    method: str
    paths: tuple[str, ...]
    auth: Auth
    rate: str | None
    work: Work
    waits: bool
    fresh: Fresh | None
    max_body_bytes: int
    locked_may: bool
    resources: frozenset[str]
    name: str
    answer: Callable[..., Awaitable[Any]]
    parser: RequestParser | None

    @property
    def pattern(self) -> str:
        """Give the path that stands for the endpoint in logs and metrics."""
        return self.paths[0]

    @property
    def body_use(self) -> BodyUse:
        """Tell how much of the body is read before the handler runs."""
        return BodyUse.NOTHING if self.parser is None else self.parser.body_use


def route(
    method: str,
    path: str,
    *,
    auth: Auth = USER,
    rate: str | None = None,
    work: Work = Work.LIGHT,
    waits: bool = False,
    fresh: Fresh | None = None,
    also: Iterable[str] = (),
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    locked_may: bool = False,
    resources: Iterable[str] | None = None,
) -> Callable[[Method], Method]:
    """Declare a method an endpoint; may be stacked.

    `rate` names a rate class; `work` the gate it passes; `waits` lets a client's disconnect
    cancel it; `fresh` tells which requests are answered only when this process knows all that was
    committed before, by whichever process; `also` gives further paths; `locked_may` admits locked
    accounts; `resources` overrides the listener resources that follow from the path. Every `/v3/`
    path is served as `/r0/` too.
    """
    declared = Route(
        method,
        path,
        auth,
        rate,
        work,
        waits,
        fresh,
        tuple(also),
        max_body_bytes,
        locked_may,
        None if resources is None else frozenset(resources),
    )

    def mark(function: Method) -> Method:
        routes: list[Route] = getattr(function, _DECLARED, [])
        # Decorators apply from the bottom up; the top one is the first to be read.
        setattr(function, _DECLARED, [declared, *routes])
        return function

    return mark


def always(_: object) -> bool:
    """Say so of every request: the `fresh` of most endpoints that have one."""
    return True


def collect(*apis: object) -> list[Endpoint]:
    """Find the endpoints that the objects' classes declare."""
    return [
        _bind(declared, api, name, function)
        for api in apis
        for name, function in vars(type(api)).items()
        for declared in getattr(function, _DECLARED, ())
    ]


def _bind(declared: Route, api: object, name: str, function: Callable[..., Any]) -> Endpoint:
    wanted = request_class_of(function)
    parser = None if wanted is None else parser_of(wanted)
    paths = _all_paths(declared)
    if parser is not None:
        for one in paths:
            missing = parser.path_names - set(_PARAMETER.findall(one))
            if missing:
                raise TypeError(f"{one} lacks {sorted(missing)} that {wanted} takes from the path")
    return Endpoint(
        method=declared.method,
        paths=paths,
        auth=declared.auth,
        rate=declared.rate,
        work=declared.work,
        waits=declared.waits,
        fresh=declared.fresh,
        max_body_bytes=declared.max_body_bytes,
        locked_may=declared.locked_may,
        resources=declared.resources or resources_of(declared.path),
        name=f"{type(api).__name__}.{name}",
        answer=getattr(api, name),
        parser=parser,
    )


def _all_paths(declared: Route) -> tuple[str, ...]:
    paths = dict.fromkeys([declared.path, *declared.also])
    for path in list(paths):
        if path.startswith(("/_matrix/client/v3/", "/_matrix/media/v3/")):
            paths[path.replace("/v3/", "/r0/", 1)] = None
    return tuple(paths)


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
    """Name the listener resources that serve a path."""
    for prefix, resources in _RESOURCES_BY_PREFIX:
        if path.startswith(prefix):
            return frozenset(resources)
    return frozenset(("client",))
