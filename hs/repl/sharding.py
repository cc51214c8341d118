"""Proxies that pass each call to the process that owns what it is about."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hs.repl.rpc import rpc_methods

P = TypeVar("P")


def sharded_proxy(
    protocol: type[P], services: Mapping[str, P], owner_of: Callable[[str], str]
) -> P:
    """Return an object whose `@rpc` methods call the service of the owner of their first argument.

    `services` has the service, or a proxy of it, of each process that `owner_of` may name.
    """
    if len(services) == 1:
        (only,) = services.values()
        return only
    methods = {name: _of_owner(name, services, owner_of) for name in rpc_methods(protocol)}
    proxy: P = type(f"Sharded{protocol.__name__}", (), methods)()
    return proxy


def _of_owner(
    name: str, services: Mapping[str, Any], owner_of: Callable[[str], str]
) -> Callable[..., Any]:
    calls = {instance: getattr(service, name) for instance, service in services.items()}

    async def call(_: object, key: str, *args: Any, **kwargs: Any) -> Any:
        return await calls[owner_of(key)](key, *args, **kwargs)

    call.__name__ = name
    return call
