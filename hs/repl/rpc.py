"""The declaration of RPC: `@rpc` on methods of a Protocol.

Both ends are derived from it: the server finds the methods by it, the client's proxy is generated
from it, and the annotations say how payloads are encoded.
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
    """Mark a method of a Protocol that other processes may call.

    `timeout_s` limits a call with all its retries. With `catch_up` a call returns only after the
    caller's feed has reached the positions of the owner's writers.
    """

    def mark(marked: F) -> F:
        marked.__dict__["rpc_timeout_s"] = timeout_s
        marked.__dict__["rpc_catch_up"] = catch_up
        return marked

    return mark if method is None else mark(method)


@attrs.frozen(eq=False)
class RpcMethod:
    """A method as both ends need it."""

    protocol: str
    name: str
    timeout_s: float
    catch_up: bool
    _signature: inspect.Signature
    _positional: int  # number of arguments if all can be given by position, else -1
    _arguments: msgspec.msgpack.Decoder[Any]
    _result: msgspec.msgpack.Decoder[Any]

    @property
    def full_name(self) -> str:
        """The name of the Protocol and of the method."""
        return f"{self.protocol}.{self.name}"

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode the arguments of a call as an array.

        Raises: TypeError if they do not match the signature.
        """
        if not kwargs and len(args) == self._positional:
            return msgspec.msgpack.encode(args)  # binding them would cost more than all the rest
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return msgspec.msgpack.encode(list(bound.arguments.values()))

    def decode_arguments(self, encoded: bytes) -> list[Any]:
        """Decode the arguments, with defaults for those that a caller of an older release omits.

        Raises: msgspec.ValidationError, msgspec.DecodeError.
        """
        decoded = self._arguments.decode(encoded)
        return [getattr(decoded, field) for field in decoded.__struct_fields__]

    def encode_result(self, result: Any) -> bytes:
        """Encode the return value."""
        return msgspec.msgpack.encode(result)

    def decode_result(self, encoded: bytes | msgspec.Raw) -> Any:
        """Decode the return value."""
        return self._result.decode(encoded)


_methods: dict[str, dict[str, RpcMethod]] = {}


def rpc_methods(protocol: type[Any]) -> dict[str, RpcMethod]:
    """Return the methods of a Protocol that are marked with `@rpc`, by name.

    Raises: TypeError if there are none, or the payload of one cannot be encoded.
    """
    key = f"{protocol.__module__}.{protocol.__qualname__}"
    methods = _methods.get(key)
    if methods is None:
        methods = {
            name: _read(protocol, name, method)
            for name, method in inspect.getmembers(protocol, inspect.isfunction)
            if "rpc_timeout_s" in method.__dict__
        }
        if not methods:
            raise TypeError(f"{key} has no @rpc methods")
        _methods[key] = methods
    return methods


def _read(protocol: type[Any], name: str, method: Callable[..., Any]) -> RpcMethod:
    if not inspect.iscoroutinefunction(method):
        raise TypeError(f"{protocol.__name__}.{name} must be async")
    hints = typing.get_type_hints(method)
    signature = inspect.signature(method)
    parameters = [
        parameter for parameter in signature.parameters.values() if parameter.name != "self"
    ]
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in parameters:
        is_variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if is_variadic or parameter.name not in hints:
            raise TypeError(f"{protocol.__name__}.{name}: {parameter.name} cannot be encoded")
        field = (parameter.name, hints[parameter.name])
        has_default = parameter.default is not parameter.empty
        fields.append((*field, parameter.default) if has_default else field)
    if "return" not in hints:
        raise TypeError(f"{protocol.__name__}.{name} must annotate its return type")
    struct = msgspec.defstruct(f"{protocol.__name__}_{name}", fields, array_like=True)
    return RpcMethod(
        protocol.__name__,
        name,
        timeout_s=method.__dict__["rpc_timeout_s"],
        catch_up=method.__dict__["rpc_catch_up"],
        signature=signature.replace(parameters=parameters),
        positional=-1 if any(map(_is_keyword_only, parameters)) else len(parameters),
        arguments=msgspec.msgpack.Decoder(struct),
        result=msgspec.msgpack.Decoder(hints["return"]),
    )


def _is_keyword_only(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.KEYWORD_ONLY
