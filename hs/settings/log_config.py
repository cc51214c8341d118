"""Reading `log_config`: Python's logging.config form, other class names understood."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.documents import read_yaml_map
from hs.settings.errors import Problem, SettingsError
from hs.settings.server import LoggingSettings
from hs.settings.workers import WorkerKeys, WorkerSettings

_CONTEXT_FILTER = "hs.lib.log.ContextFilter"
_JSON_FORMATTER = "hs.lib.log.JsonFormatter"
_ALIASES = {
    "synapse.logging.context.LoggingContextFilter": _CONTEXT_FILTER,
    "synapse.util.logcontext.LoggingContextFilter": _CONTEXT_FILTER,
    "synapse.logging.TerseJsonFormatter": _JSON_FORMATTER,
    "synapse.logging.JsonFormatter": _JSON_FORMATTER,
    "synapse.logging.handlers.PeriodicallyFlushingMemoryHandler": "logging.handlers.MemoryHandler",
}
# Arguments that only the aliased class knows.
_DROPPED = {"synapse.logging.handlers.PeriodicallyFlushingMemoryHandler": ("period",)}
_PARTS = ("formatters", "filters", "handlers")


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
    """Put our classes in place of Synapse's."""
    changed = dict(config)
    changed.setdefault("version", 1)
    for part in _PARTS:
        if isinstance(config.get(part), dict):
            changed[part] = {name: _aliased(one) for name, one in config[part].items()}
    return changed


def _aliased(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    named = (str(entry.get("class")), str(entry.get("()")))
    dropped = {argument for name in named for argument in _DROPPED.get(name, ())}
    return {
        name: _ALIASES.get(value, value) if name in ("class", "()") else value
        for name, value in entry.items()
        if name not in dropped
    }
