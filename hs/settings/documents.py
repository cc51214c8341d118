"""Reads and merges configuration files, and remembers the file and line of each key."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import yaml

from hs.settings.errors import Notice, Origin, Problem, SettingsError


@attrs.define
class Document:
    """The merged top-level keys of all files, with their origins."""

    values: dict[str, Any] = attrs.field(factory=dict)
    origins: dict[str, Origin] = attrs.field(factory=dict)
    files: list[Path] = attrs.field(factory=list)
    notices: list[Notice] = attrs.field(factory=list)


def read_documents(paths: Iterable[Path]) -> Document:
    """Read files, and the `*.yaml` files of directories sorted by name.

    A later file replaces whole top-level keys. Logging configurations in a directory are skipped.

    Raises: SettingsError, if a file cannot be read or is not valid YAML.
    """
    document = Document()
    for path in paths:
        files = _files_of(path)
        for file in files:
            _merge(document, file, skip_log_config=path.is_dir())
        if not files:
            document.notices.append(
                Notice(
                    key="", message="directory contains no *.yaml files", origin=Origin(file=path)
                )
            )
    return document


_MERGE_TAG = "tag:yaml.org,2002:merge"
# The keys of Python's logging.config: a directory may contain the log configuration as well.
_LOG_KEYS = frozenset(
    (
        "version", "formatters", "filters", "handlers", "loggers", "root", "incremental",
        "disable_existing_loggers",
    )
)  # fmt: skip


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix == ".yaml" and file.is_file())
    return [path]


def configuration_files_of(path: Path) -> list[Path]:
    """Return the files that `read_documents` would read: of a directory, or the file itself.

    Raises: SettingsError.
    """
    return read_documents([path]).files


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _failure(
            file, "file does not exist", "correct the path, or create it with `hs generate-config`"
        ) from None
    except OSError as error:
        message = f"cannot read the file: {error.strerror or error}"
        raise _failure(file, message, "check the path and its permissions") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = "file is not encoded as UTF-8"
        raise _failure(file, message, "save it as UTF-8", line) from None


def _failure(file: Path, message: str, remedy: str, line: int | None = None) -> SettingsError:
    origin = Origin(file=file, line=line)
    return SettingsError([Problem(key="", message=message, remedy=remedy, origin=origin)])


@attrs.frozen
class _ParsedFile:
    """The root node of a YAML file, its value, and the notices about keys that occur twice."""

    root: yaml.Node | None = None
    value: Any = None
    repeated: list[Notice] = attrs.field(factory=list)


def _parse(file: Path) -> _ParsedFile:
    text = _text_of(file)
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return _ParsedFile()
            # Constructing the value merges what `<<` names, whose keys may well be set again.
            repeated = list(_repeated_keys(root, file))
            return _ParsedFile(root, loader.construct_document(root), repeated)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise _failure(
            file,
            f"not valid YAML: {_without_values(error.problem)}",
            "check the indentation and quotes near it",
            line,
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not valid YAML: it contains the character {error.character:#04x}"
        raise _failure(file, message, "remove this control character", line) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _failure(
            file, f"not valid YAML: {error}", "check the indentation and quotes"
        ) from None
    except RecursionError:
        raise _failure(
            file, "YAML is nested too deeply", "look for unclosed brackets and braces"
        ) from None


def _repeated_keys(root: yaml.Node, file: Path) -> Iterator[Notice]:
    """Yield a notice for each key that occurs again in the same map, at any depth."""
    seen: set[int] = set()  # an alias is the node that it names
    pending: list[tuple[tuple[str, ...], yaml.Node]] = [((), root)]
    while pending:
        path, node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += [((*path, str(number)), entry) for number, entry in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        names: set[str] = set()
        for name_node, value in node.value:
            inner = (*path, str(name_node.value))
            if inner[-1] in names and name_node.tag != _MERGE_TAG:
                yield Notice(
                    key=".".join(inner),
                    message="key occurs twice in this file, the last one is used",
                    origin=Origin(file=file, line=name_node.start_mark.line + 1),
                )
            names.add(inner[-1])
            pending.append((inner, value))


def _without_values(problem: str | None) -> str:
    """Return the message of a YAML error without the value, which may be a secret."""
    match (problem or "").split(" '")[0]:
        case "found undefined alias":
            return "a value that begins with * must be in quotes"
        case "could not determine a constructor for the tag" | "found undefined tag handle":
            return "a value that begins with ! must be in quotes"
    return problem or "unknown mistake"


def _merge(document: Document, file: Path, *, skip_log_config: bool = False) -> None:
    parsed = _parse(file)
    root, value = parsed.root, parsed.value
    if skip_log_config and isinstance(value, dict) and "version" in value.keys() <= _LOG_KEYS:
        return
    document.files.append(file)
    if not isinstance(value, dict) or not isinstance(root, yaml.MappingNode):
        document.notices.append(
            Notice(key="", message="file contains no keys, skipped", origin=Origin(file=file))
        )
        return
    document.notices += sorted(parsed.repeated, key=lambda notice: notice.origin.line or 0)
    for node, _ in root.value:
        document.origins[str(node.value)] = Origin(file=file, line=node.start_mark.line + 1)
    document.values.update({str(name): setting for name, setting in value.items()})


def read_yaml_map(file: Path, key: str) -> dict[str, Any]:
    """Read another YAML file, which the key `key` names.

    Raises: SettingsError.
    """
    inner = Document()
    try:
        _merge(inner, file) if file.exists() else None
    except SettingsError as error:
        raise SettingsError(attrs.evolve(problem, key=key) for problem in error.problems) from None
    if not inner.values:
        raise SettingsError(
            [
                Problem(
                    key=key,
                    message=f"{file} does not exist or contains no keys",
                    remedy=f"correct the path, or remove {key}",
                )
            ]
        )
    return inner.values
