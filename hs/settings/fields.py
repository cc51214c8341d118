"""Declaring settings as attrs fields, and reading a map of YAML into such a class."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs

from hs.settings.kinds import PATH, STRING, At, Kind, Schema, Unfit, optional

T = TypeVar("T")
_KEY = "hs.settings.key"


@attrs.frozen(kw_only=True)
class Key:
    """One key of the configuration file, or of a block within it."""

    name: str
    kind: Kind[Any]
    default: Any
    doc: str
    section: str = ""
    is_effective: bool = True
    block: type | None = None
    # The name of the twin key that gives the path of a file holding this secret.
    path_twin: str | None = None


def setting(
    kind: Kind[T],
    default: T,
    doc: str,
    *,
    shown: Any = attrs.NOTHING,
    name: str = "",
    is_effective: bool = True,
) -> T:
    """Declare a field that one key fills. `shown` is the default as an administrator writes it."""
    key = Key(
        name=name,
        kind=kind,
        default=default if shown is attrs.NOTHING else shown,
        doc=doc,
        is_effective=is_effective,
    )
    field: T = attrs.field(default=default, metadata={_KEY: key})
    return field


def secret(doc: str, *, is_effective: bool = True) -> str | None:
    """Declare a secret, which may stand in the file or, under `<key>_path`, in one of its own."""
    key = Key(
        name="",
        kind=optional(STRING),
        default=None,
        doc=doc,
        path_twin="_path",
        is_effective=is_effective,
    )
    field: str | None = attrs.field(default=None, repr=False, metadata={_KEY: key})
    return field


def keys_of(cls: type, section: str = "") -> Iterator[Key]:
    """List the keys that fill a class."""
    for field in attrs.fields(cls):
        if _KEY in field.metadata:
            key: Key = field.metadata[_KEY]
            name = key.name or field.name
            twin = f"{name}_path" if key.path_twin else None
            yield attrs.evolve(key, name=name, section=section, path_twin=twin)


def twin_of(key: Key) -> Key:
    """The key that names the file of a secret."""
    return Key(
        name=key.path_twin or "",
        kind=optional(STRING),
        default=None,
        doc=f"Path of a file holding `{key.name}`.",
        is_effective=key.is_effective,
        section=key.section,
    )


def read_secret(key: Key, given: Mapping[str, Any], at: At) -> str | None:
    """Read a secret or the file its twin names."""
    value: str | None = key.kind.read(given.get(key.name), at)
    twin = key.path_twin or ""
    if given.get(twin) is None:
        return value
    here = attrs.evolve(at, path=(*at.path[:-1], twin))
    if value is not None:
        here.refuse(f"{key.name} is set as well", f"keep only one of {key.name} and {twin}")
    path = PATH.read(given[twin], here)
    try:
        return path.read_text().strip()
    except OSError as error:
        here.refuse(f"cannot read {path}: {error.strerror}", "correct the path or its permissions")


def read_key(key: Key, given: Mapping[str, Any], at: At) -> Any:
    """Read one key from the map that holds it; `at` stands at the key."""
    return read_secret(key, given, at) if key.path_twin else key.kind.read(given[key.name], at)


def is_given(key: Key, given: Mapping[str, Any]) -> bool:
    return key.name in given or (key.path_twin is not None and key.path_twin in given)


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name nearest to an unknown one, as the end of a sentence."""
    flat = {one.replace("-", "_").lower(): one for one in known}
    close = difflib.get_close_matches(name.replace("-", "_").lower(), flat, n=1, cutoff=0.7)
    return f"; did you mean {flat[close[0]]}?" if close else ""


def block(cls: type[T]) -> Kind[T]:
    """The kind of a map whose keys fill an attrs class; null leaves every default."""
    keys = {key.name: key for key in keys_of(cls)}
    names = [*keys, *(key.path_twin for key in keys.values() if key.path_twin)]
    fields = {
        (field.metadata[_KEY].name or field.name): field.name
        for field in attrs.fields(cls)  # type: ignore[arg-type]  # T is an attrs class
        if _KEY in field.metadata
    }

    def read(value: Any, at: At) -> T:
        if value is None:
            return cls()
        if not isinstance(value, dict):
            at.refuse(f"expected a map, found {value!r:.60}", f"it may hold {', '.join(names)}")
        for name in value:
            if name not in names:
                at.child(str(name)).warn(
                    "unknown key, ignored" + nearest(str(name), names), is_unknown_key=True
                )
        for key in keys.values():
            if not key.is_effective and value.get(key.name, key.default) != key.default:
                at.child(key.name).note("not yet effective")
        return cls(
            **{
                fields[key.name]: read_key(key, value, at.child(key.name))
                for key in keys.values()
                if is_given(key, value)
            }
        )

    schema: Schema = {
        "type": ["object", "null"],
        "properties": {key.name: key.kind.schema for key in keys.values()},
    }
    return Kind("object", read, schema)


def sub_block(cls: type[T], doc: str, *, name: str = "", is_effective: bool = True) -> T:
    """Declare a field that a nested map fills."""
    key = Key(
        name=name, kind=block(cls), default=None, doc=doc, block=cls, is_effective=is_effective
    )
    field: T = attrs.field(factory=cls, metadata={_KEY: key})
    return field


__all__ = [
    "Key",
    "Unfit",
    "block",
    "is_given",
    "keys_of",
    "nearest",
    "read_key",
    "secret",
    "setting",
    "sub_block",
    "twin_of",
]
