"""Declaring what one process may ask of another: `@rpc` on methods of a Protocol.

Both ends are made from the declaration: the server finds methods by it, the client's proxy is
generated from it, and the payloads are encoded by the annotations.
"""

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar, overload

import attrs
import msgspec

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TIMEOUT_S = 30.0


@overload
def rpc(method: F) -> F: ...


@overload
def rpc(*, timeout_s: float = ..., catch_up: bool = ...) -> Callable[[F], F]: ...


def rpc(
    method: F | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S, catch_up: bool = True
) -> F | Callable[[F], F]:
    """Let other processes call this method of a Protocol.

    `timeout_s` bounds a call in all; with `catch_up` the caller gets its answer once it has seen
    what the owner wrote.
    """

    def mark(marked: F) -> F:
        marked.__dict__["rpc_timeout_s"] = timeout_s
        marked.__dict__["rpc_catch_up"] = catch_up
        return marked

    return mark if method is None else mark(method)


@attrs.frozen(eq=False)
class RpcMethod:
    """One method as both ends see it."""

    protocol: str
    name: str
    timeout_s: float
    catch_up: bool
    _signature: inspect.Signature
    _arguments: msgspec.msgpack.Decoder[Any]
    _result: msgspec.msgpack.Decoder[Any]

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the arguments of a call as an array.

        Raises: TypeError when they do not fit the signature.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return msgspec.msgpack.encode(list(bound.arguments.values()))

    def decode_arguments(self, encoded: bytes) -> list[Any]:
        """Decode the arguments, with defaults for those an older caller does not know.

        Raises: msgspec.ValidationError, msgspec.DecodeError.
        """
        decoded = self._arguments.decode(encoded)
        return [getattr(decoded, field) for field in decoded.__struct_fields__]

    def encode_result(self, result: Any) -> bytes:
        """Encode what the method returned."""
        return msgspec.msgpack.encode(result)

    def decode_result(self, encoded: bytes | msgspec.Raw) -> Any:
        """Decode what the method returned."""
        return self._result.decode(encoded)


_methods: dict[str, dict[str, RpcMethod]] = {}


def rpc_methods(protocol: type[Any]) -> dict[str, RpcMethod]:
    """List the methods of a Protocol that are marked with `@rpc`.

    Raises: TypeError for a method that cannot be called from afar.
    """
    key = f"{protocol.__module__}.{protocol.__qualname__}"
    known = _methods.get(key)
    if known is None:
        known = {
            name: _read(protocol, name, method)
            for name, method in inspect.getmembers(protocol, inspect.isfunction)
            if "rpc_timeout_s" in method.__dict__
        }
        if not known:
            raise TypeError(f"{key} has no @rpc methods")
        _methods[key] = known
    return known


def _read(protocol: type[Any], name: str, method: Callable[..., Any]) -> RpcMethod:
    if not inspect.iscoroutinefunction(method):
        raise TypeError(f"{protocol.__name__}.{name} must be async")
    hints = typing.get_type_hints(method)
    whole = inspect.signature(method)
    parameters = [one for one in whole.parameters.values() if one.name != "self"]
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for one in parameters:
        if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) or one.name not in hints:
            raise TypeError(f"{protocol.__name__}.{name}: {one.name} cannot be encoded")
        field = (one.name, hints[one.name])
        fields.append(field if one.default is one.empty else (*field, one.default))
    if "return" not in hints:
        raise TypeError(f"{protocol.__name__}.{name} does not say what it returns")
    struct = msgspec.defstruct(f"{protocol.__name__}_{name}", fields, array_like=True)
    return RpcMethod(
        protocol.__name__,
        name,
        method.__dict__["rpc_timeout_s"],
        method.__dict__["rpc_catch_up"],
        whole.replace(parameters=parameters),
        msgspec.msgpack.Decoder(struct),
        msgspec.msgpack.Decoder(hints["return"]),
    )
