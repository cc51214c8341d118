"""Reading `log_config`: Python's logging.config form, other class names understood."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.documents import read_yaml_map
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.server import LoggingSettings
from hs.settings.sections.workers import WorkerKeys, WorkerSettings

_CONTEXT_FILTER = "hs.lib.log.ContextFilter"
_JSON_FORMATTER = "hs.lib.log.JsonFormatter"
_ALIASES = {
    "synapse.logging.context.LoggingContextFilter": _CONTEXT_FILTER,
    "synapse.util.logcontext.LoggingContextFilter": _CONTEXT_FILTER,
    "synapse.logging.TerseJsonFormatter": _JSON_FORMATTER,
    "synapse.logging.JsonFormatter": _JSON_FORMATTER,
    "synapse.logging.handlers.PeriodicallyFlushingMemoryHandler": "logging.handlers.MemoryHandler",
}
# Arguments that only the aliased class knows, and such as the class in its place needs: it never
# writes what waits after some seconds, so nothing may wait.
_DROPPED = {"synapse.logging.handlers.PeriodicallyFlushingMemoryHandler": ("period",)}
_ADDED = {"synapse.logging.handlers.PeriodicallyFlushingMemoryHandler": {"capacity": 1}}
_PARTS = ("formatters", "filters", "handlers")
_OWN_FILTER = "hs request"


def read_log_config(
    logging: LoggingSettings,
    keys: WorkerKeys,
    workers: WorkerSettings,
    problems: list[Problem],
) -> LoggingSettings:
    """Read the file for this process, if one is named and it exists for it."""
    key = "log_config" if workers.is_main else "worker_log_config"
    path = logging.log_config if workers.is_main else (keys.worker_log_config or logging.log_config)
    if path is None:
        return logging
    try:
        config = with_own_classes(read_yaml_map(path, key))
    except SettingsError as error:
        problems.extend(error.problems)
        return logging
    return attrs.evolve(logging, log_config=path, config=MappingProxyType(config))


def with_own_classes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Put our classes in place of Synapse's, and keep our loggers, which are there already."""
    changed = {"version": 1, "disable_existing_loggers": False, **config}
    for part in _PARTS:
        if isinstance(config.get(part), dict):
            changed[part] = {name: _aliased(one) for name, one in config[part].items()}
    return _with_request(changed) if "request" in str(changed.get("formatters")) else changed


def _with_request(config: dict[str, Any]) -> dict[str, Any]:
    """Let every format name `%(request)s`, which Synapse gives to all records."""
    filters, handlers = config.get("filters") or {}, config.get("handlers")
    if not isinstance(filters, dict) or not isinstance(handlers, dict):
        return config
    own = {_OWN_FILTER: {"()": _CONTEXT_FILTER}}
    filtered = {
        name: {**one, "filters": [_OWN_FILTER, *(one.get("filters") or ())]}
        if isinstance(one, dict) and isinstance(one.get("filters") or [], list)
        else one
        for name, one in handlers.items()
    }
    return {**config, "filters": {**filters, **own}, "handlers": filtered}


def _aliased(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    named = (str(entry.get("class")), str(entry.get("()")))
    dropped = {argument for name in named for argument in _DROPPED.get(name, ())}
    added = {key: value for name in named for key, value in _ADDED.get(name, {}).items()}
    kept = {
        name: _ALIASES.get(str(value), value) if name in ("class", "()") else value
        for name, value in entry.items()
        if name not in dropped
    }
    return {**kept, **added}
