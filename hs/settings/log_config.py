"""Reads `log_config`, a file for Python's logging.config; translates the names of classes."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.documents import read_yaml_map
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.server import LoggingSettings
from hs.settings.sections.workers import WorkerKeys, WorkerSettings

_CONTEXT_FILTER = "hs.lib.log.ContextFilter"
_JSON_FORMATTER = "hs.lib.log.JsonFormatter"
_REMOTE_HANDLER = "hs.lib.remote_log.RemoteHandler"
_JOURNAL_HANDLER = "hs.lib.journal_log.JournalHandler"
_ALIASES = {
    "synapse.logging.context.LoggingContextFilter": _CONTEXT_FILTER,
    "synapse.util.logcontext.LoggingContextFilter": _CONTEXT_FILTER,
    "synapse.logging.TerseJsonFormatter": _JSON_FORMATTER,
    "synapse.logging.JsonFormatter": _JSON_FORMATTER,
    "synapse.logging._terse_json.TerseJsonFormatter": _JSON_FORMATTER,
    "synapse.logging._terse_json.JsonFormatter": _JSON_FORMATTER,
    "synapse.logging.formatter.LogFormatter": "logging.Formatter",
    "synapse.util.logformatter.LogFormatter": "logging.Formatter",
    "synapse.logging.RemoteHandler": _REMOTE_HANDLER,
    "synapse.logging._remote.RemoteHandler": _REMOTE_HANDLER,
    "systemd.journal.JournalHandler": _JOURNAL_HANDLER,
    "synapse.logging.filter.MetadataFilter": "hs.lib.log.MetadataFilter",
    "synapse.logging.handlers.PeriodicallyFlushingMemoryHandler": "logging.handlers.MemoryHandler",
}
# Arguments that only Synapse's class knows, and arguments that our replacement needs. The
# replacement does not flush its buffer periodically, so it must not buffer at all (capacity 1).
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
    """Read the log configuration of this process, if one is named."""
    own = None if workers.is_main else keys.worker_log_config
    key, path = ("worker_log_config", own) if own else ("log_config", logging.log_config)
    if path is None:
        return logging
    try:
        config = translate_classes(read_yaml_map(path, key))
    except SettingsError as error:
        problems.extend(error.problems)
        return logging
    if "drains" in config:
        problem = Problem(
            key=key,
            message=f"{path}: `drains` is an old form of structured logging, which is not read",
            remedy="write `handlers`, with the formatter hs.lib.log.JsonFormatter",
        )
        problems.append(problem)
    return attrs.evolve(logging, log_config=path, config=MappingProxyType(config), key=key)


def log_files(settings: LoggingSettings) -> list[Path]:
    """Return the files that `log_config` names."""
    configured = (settings.config or {}).get("handlers")
    entries = configured.values() if isinstance(configured, dict) else ()
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    return [Path(name) for name in names if isinstance(name, str)]


def translate_classes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace classes of Synapse and of the library `systemd` by ours.

    Loggers that exist already stay enabled by default.
    """
    changed = {"version": 1, "disable_existing_loggers": False, **config}
    for part in _PARTS:
        if isinstance(config.get(part), dict):
            changed[part] = {name: _translate_entry(entry) for name, entry in config[part].items()}
    formats = str(changed.get("formatters"))
    is_needed = "request" in formats or "instance" in formats
    return _with_own_filter(changed) if is_needed else changed


def _with_own_filter(config: dict[str, Any]) -> dict[str, Any]:
    """Add a filter to all handlers, so that formats may use `%(request)s` and `%(instance)s`."""
    filters, handlers = config.get("filters") or {}, config.get("handlers")
    if not isinstance(filters, dict) or not isinstance(handlers, dict):
        return config
    own_filter = {_OWN_FILTER: {"()": _CONTEXT_FILTER}}
    filtered = {
        name: {**handler, "filters": [*(handler.get("filters") or ()), _OWN_FILTER]}
        if isinstance(handler, dict) and isinstance(handler.get("filters") or [], list)
        else handler
        for name, handler in handlers.items()
    }
    return {**config, "filters": {**filters, **own_filter}, "handlers": filtered}


def _translate_entry(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    class_names = (str(entry.get("class")), str(entry.get("()")))
    dropped = {argument for name in class_names for argument in _DROPPED.get(name, ())}
    added = {key: value for name in class_names for key, value in _ADDED.get(name, {}).items()}
    translated = {
        name: _ALIASES.get(str(value), value) if name in ("class", "()") else value
        for name, value in entry.items()
        if name not in dropped
    }
    return {**translated, **added}
