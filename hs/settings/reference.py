"""Renders the reference page of all settings, and their JSON Schema, from the registry."""

import json
from collections.abc import Iterator
from typing import Any

from hs.settings.fields import Key, keys_of
from hs.settings.ineffective import RESTRICTING_KEYS
from hs.settings.kinds import Schema
from hs.settings.registry import REGISTRY

_HEAD = """\
# Settings

<!-- Written by `hs.settings.reference` from the registry of keys; do not edit by hand. -->

The configuration is YAML, in the format of Synapse's `homeserver.yaml`. The option `--config` may
be given several times and accepts directories: of a directory, the `*.yaml` files are read in
order of their names, except logging configurations. A later file replaces whole top-level keys.
Relative paths start at the directory of the file that contains them.

- **Duration**: milliseconds, or a number with one of `s`, `m`, `h`, `d`, `w`, `y`.
- **Size**: bytes, or a number with one of `K`, `M`, `G`, `T` (powers of 1024).
- **Rate**: `{per_second: 0.2, burst_count: 10}` allows 10 at once, and 0.2 per second after that.

A key marked *no effect* is known and its type is checked, but this version does not use it; the
server logs that when it starts. A key marked *no effect, refuses the start* restricts or identifies
users or servers: if its value does that, the server exits with status 2, unless it is started with
`--allow-ineffective KEY`. So do `experimental_features.msc3861`, `experimental_features.msc3866`
and the old keys `account_validity`, `ldap_config`, `limit_large_remote_room_joins`, `oidc_config`,
`password_providers`, `saml2_enabled`, `spam_checker` and `third_party_event_rules`.

Unknown keys are ignored with a warning that suggests the most similar key. `hs check-config`
reports all mistakes and warnings without starting anything. An empty string for an
optional setting, such as a path, is the same as a missing one.

`database.args` for PostgreSQL: `user`, `password`, `host`, `port`, `database` (or `dbname`),
`cp_min` and `cp_max` (number of connections of each process), `connect_timeout`,
`application_name`, `options`, and libpq's `ssl…` arguments. A connection to localhost is encrypted
only if `sslmode` says so or PostgreSQL requires it. For SQLite: `database`, the path of the file.
"""


def sections() -> dict[str, list[Key]]:
    """Return the keys by section, in the order of the registry."""
    keys: dict[str, list[Key]] = {}
    for key in REGISTRY.values():
        keys.setdefault(key.section, []).append(key)
    return keys


def markdown() -> str:
    """Return the reference page for administrators."""
    lines = [_HEAD]
    for section, keys in sections().items():
        lines += [
            f"## {section}",
            "",
            "| key | type | default | description |",
            "| --- | --- | --- | --- |",
        ]
        for key in keys:
            lines += [_row(key, key.name), *_rows_within(key, key.name)]
        lines.append("")
    return "\n".join(lines)


def _rows_within(key: Key, prefix: str) -> Iterator[str]:
    if key.block is None:
        return
    for inner in keys_of(key.block):
        name = f"{prefix}.{inner.name}"
        yield _row(inner, name)
        if inner.path_key:
            yield f"| `{name}_path` | path | – | Path of a file that contains it. |"
        yield from _rows_within(inner, name)


def _row(key: Key, name: str) -> str:
    doc = key.doc if key.is_effective else f"*{_lack_of_effect(name)}.* {key.doc}"
    label = key.kind.label.replace("|", "\\|")
    return f"| `{name}` | {label} | {_default(key)} | {doc} |"


def _lack_of_effect(name: str) -> str:
    return "No effect, refuses the start" if name in RESTRICTING_KEYS else "No effect"


def _default(key: Key) -> str:
    if key.block is not None or key.default is None:
        return "–"
    return f"`{json.dumps(key.default, ensure_ascii=False)}`"


def json_schema() -> Schema:
    """Return the JSON Schema with which editors complete and check a configuration."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hs configuration",
        "type": "object",
        "properties": {name: _property_schema(key) for name, key in REGISTRY.items()},
    }


def _property_schema(key: Key) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": key.doc, **key.kind.schema}
    if key.default is not None and key.block is None:
        schema["default"] = key.default
    return schema


def json_schema_text() -> str:
    """Return the JSON Schema as text."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
