"""Declares settings as fields of attrs classes, and reads YAML maps into these classes."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs

from hs.settings.kinds import (
    PATH,
    SECRET,
    STRING,
    ConfigLocation,
    Kind,
    Schema,
    optional,
    type_in_words,
)

T = TypeVar("T")
_KEY = "hs.settings.key"
# Of shells, and of templates of deployment tools.
_PLACEHOLDER = re.compile(r"\$\{[^{}]*\}|\$[A-Z_]+|\{\{.*\}\}")


@attrs.frozen(kw_only=True)
class Key:
    """A key of the configuration file, or of a block in it.

    `path_key` is the name of a second key that may name a file with this secret instead, which is
    created if `is_created`.
    """

    name: str
    kind: Kind[Any]
    default: Any
    doc: str
    section: str = ""
    is_effective: bool = True
    block: type | None = None
    path_key: str | None = None
    is_created: bool = False


def setting(
    kind: Kind[T],
    default: T,
    doc: str,
    *,
    shown: Any = attrs.NOTHING,
    name: str = "",
    is_effective: bool = True,
    is_secret: bool = False,
) -> T:
    """Declare a field that is set by one key.

    `shown` is the default as administrators write it, if that differs from the value. A secret does
    not appear in the repr of its class.
    """
    key = Key(
        name=name,
        kind=kind,
        default=default if shown is attrs.NOTHING else shown,
        doc=doc,
        is_effective=is_effective,
    )
    field: T = attrs.field(default=default, repr=not is_secret, metadata={_KEY: key})
    return field


def secret(doc: str, *, is_effective: bool = True, is_created: bool = False) -> str | None:
    """Declare a secret, which is given inline or, by the key `<key>_path`, in a file of its own.

    With `is_created`, `hs serve` creates that file if it is missing, with a random secret.
    """
    key = Key(
        name="",
        kind=optional(SECRET),
        default=None,
        doc=doc,
        path_key="_path",
        is_effective=is_effective,
        is_created=is_created,
    )
    field: str | None = attrs.field(default=None, repr=False, metadata={_KEY: key})
    return field


def inline_secret(doc: str) -> str | None:
    """Declare a secret that cannot be given in a file of its own."""
    return setting(optional(SECRET), None, doc, is_secret=True)


def keys_of(cls: type, section: str = "") -> Iterator[Key]:
    """Yield the keys that set the fields of a class."""
    for field in attrs.fields(cls):
        if _KEY in field.metadata:
            key: Key = field.metadata[_KEY]
            name = key.name or field.name
            path_key = f"{name}_path" if key.path_key else None
            yield attrs.evolve(key, name=name, section=section, path_key=path_key)


def path_key_of(key: Key) -> Key:
    """Return the key that names the file of a secret."""
    return Key(
        name=key.path_key or "",
        kind=optional(STRING),
        default=None,
        doc=f"Path of a file that contains `{key.name}`.",
        is_effective=key.is_effective,
        section=key.section,
    )


def read_secret(key: Key, values: Mapping[str, Any], at: ConfigLocation) -> str | None:
    """Read a secret, given inline or in a file; an empty one is none, because anybody knows it."""
    value: str | None = key.kind.read(values.get(key.name), at)
    path_key = key.path_key or ""
    if not values.get(path_key):
        if values.get(key.name) == "":
            at.note("is empty, so it is not set")
        _warn_about_placeholder(value, at)
        return value
    path_at = attrs.evolve(at, path=(*at.path[:-1], path_key))
    if value is not None:
        path_at.reject(f"{key.name} is set as well", f"remove one of {key.name} and {path_key}")
    path = PATH.read(values[path_key], path_at)
    if key.is_created and not path.exists() and os.access(path.parent, os.W_OK | os.X_OK):
        path_at.create_secret(path)
        return None
    try:
        text = path.read_text().strip()
    except OSError as error:
        path_at.reject(
            f"cannot read {path}: {error.strerror}", "correct the path or its permissions"
        )
    except UnicodeDecodeError:
        path_at.reject(f"{path} is not encoded as UTF-8", "write the secret into it as text")
    if not text:
        path_at.reject(f"{path} is empty", "write the secret into it")
    _warn_about_placeholder(text, path_at)
    return text


def _warn_about_placeholder(value: str | None, at: ConfigLocation) -> None:
    if value is not None and _PLACEHOLDER.fullmatch(value):
        at.warn("is a placeholder that was not replaced, so anybody can guess it")


def read_key(key: Key, values: Mapping[str, Any], at: ConfigLocation) -> Any:
    """Read a key from the map that contains it; `at` is the place of the key."""
    return read_secret(key, values, at) if key.path_key else key.kind.read(values[key.name], at)


def is_present(key: Key, values: Mapping[str, Any]) -> bool:
    return key.name in values or (key.path_key is not None and key.path_key in values)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the known name nearest to an unknown one, or ""."""
    normalized = {candidate.replace("-", "_").lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.replace("-", "_").lower(), normalized, n=1, cutoff=0.7)
    return f"; did you mean {normalized[close[0]]}?" if close else ""


def block(cls: type[T], *, is_rule: bool = False) -> Kind[T]:
    """Return the kind of a map whose keys set the fields of an attrs class; null is the default.

    A rule rejects unknown keys: without the misspelt one, it would match more than it should.
    """
    keys = {key.name: key for key in keys_of(cls)}
    names = [*keys, *(key.path_key for key in keys.values() if key.path_key)]
    fields = {
        (field.metadata[_KEY].name or field.name): field.name
        for field in attrs.fields(cls)  # type: ignore[arg-type]  # T is an attrs class
        if _KEY in field.metadata
    }

    def read(value: Any, at: ConfigLocation) -> T:
        if value is None:
            return cls()
        if not isinstance(value, dict):
            at.reject(
                f"expected a map, found {type_in_words(value)}",
                f"its keys may be {', '.join(names)}",
            )
        for name in value:
            hint = did_you_mean(str(name), names)
            if name not in names and is_rule:
                at.child(str(name)).reject(f"unknown key{hint}", f"use {', '.join(names)}")
            elif name not in names:
                at.child(str(name)).warn(f"unknown key, ignored{hint}", is_unknown_key=True)
        for key in keys.values():
            if not key.is_effective and value.get(key.name, key.default) != key.default:
                at.child(key.name).note("has no effect in this version")
        return cls(
            **{
                fields[key.name]: read_key(key, value, at.child(key.name))
                for key in keys.values()
                if is_present(key, value)
            }
        )

    schema: Schema = {
        "type": ["object", "null"],
        "properties": {key.name: key.kind.schema for key in keys.values()},
    }
    return Kind("object", read, schema)


def sub_block(cls: type[T], doc: str, *, name: str = "", is_effective: bool = True) -> T:
    """Declare a field that is set by a nested map."""
    key = Key(
        name=name, kind=block(cls), default=None, doc=doc, block=cls, is_effective=is_effective
    )
    field: T = attrs.field(factory=cls, metadata={_KEY: key})
    return field
