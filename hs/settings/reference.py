"""Writes the page of all settings, and a JSON Schema of them, from the registry."""

import json
from collections.abc import Iterator
from typing import Any

from hs.settings.fields import Key, keys_of
from hs.settings.kinds import Schema
from hs.settings.registry import REGISTRY

_HEAD = """\
# Settings

<!-- Written by `hs.settings.reference` from the registry of keys; do not edit by hand. -->

The configuration is YAML, in the dialect of Synapse's `homeserver.yaml`. Give `--config` once or
more; a directory stands for its `*.yaml` files in order of their names, those for logs left out. A
later file replaces whole top-level keys. Relative paths start at the directory of the file that
holds them.

- **Duration**: milliseconds, or a number and one of `s`, `m`, `h`, `d`, `w`, `y`.
- **Size**: bytes, or a number and one of `K`, `M`, `G`, `T` (powers of 1024).
- **Rate**: `{per_second: 0.2, burst_count: 10}`.

A key marked *not yet* is known and its type is checked, but it has no effect in this version; the
server says so at its start. Keys that are not listed are reported with the nearest listed one, and
ignored. `hs check-config` reports all of this without starting anything.

`database.args` for PostgreSQL: `user`, `password`, `host`, `port`, `database` (or `dbname`),
`cp_min` and `cp_max` (connections of each process), `connect_timeout`, `application_name`,
`options` and libpq's `ssl…` arguments; a connection to this machine (localhost) is encrypted only
if `sslmode` says so or PostgreSQL insists. For SQLite: `database`, the path of its file.
"""


def sections() -> dict[str, list[Key]]:
    """The keys by section, in the order of the registry."""
    found: dict[str, list[Key]] = {}
    for key in REGISTRY.values():
        found.setdefault(key.section, []).append(key)
    return found


def markdown() -> str:
    """The page for administrators."""
    lines = [_HEAD]
    for section, keys in sections().items():
        lines += [f"## {section}", "", "| key | type | default | |", "| --- | --- | --- | --- |"]
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
        if inner.path_twin:
            yield f"| `{name}_path` | path | – | A file holding it. |"
        yield from _rows_within(inner, name)


def _row(key: Key, name: str) -> str:
    doc = key.doc if key.is_effective else f"*Not yet.* {key.doc}"
    label = key.kind.label.replace("|", "\\|")
    return f"| `{name}` | {label} | {_default(key)} | {doc} |"


def _default(key: Key) -> str:
    if key.block is not None or key.default is None:
        return "–"
    return f"`{json.dumps(key.default, ensure_ascii=False)}`"


def json_schema() -> Schema:
    """The schema that editors use to complete and check a configuration."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hs configuration",
        "type": "object",
        "properties": {name: _described(key) for name, key in REGISTRY.items()},
    }


def _described(key: Key) -> dict[str, Any]:
    described: dict[str, Any] = {"description": key.doc, **key.kind.schema}
    if key.default is not None and key.block is None:
        described["default"] = key.default
    return described


def json_schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
