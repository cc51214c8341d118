"""Reading configuration files: several, directories, merged, each key's place remembered."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import yaml

from hs.settings.errors import Notice, Origin, Problem, SettingsError


@attrs.define
class Document:
    """The merged top-level keys of all files."""

    values: dict[str, Any] = attrs.field(factory=dict)
    origins: dict[str, Origin] = attrs.field(factory=dict)
    files: list[Path] = attrs.field(factory=list)
    notices: list[Notice] = attrs.field(factory=list)


def read_documents(paths: Iterable[Path]) -> Document:
    """Read files and the *.yaml of directories; later files replace whole top-level keys.

    Raises: SettingsError.
    """
    document = Document()
    for path in paths:
        files = _files_of(path)
        for file in files:
            _merge(document, file, may_be_for_logs=path.is_dir())
        if not files:
            document.notices.append(
                Notice(key="", message="holds no *.yaml", origin=Origin(file=path))
            )
    return document


# What Python's logging.config takes: a log configuration may lie beside what it belongs to.
_LOG_KEYS = frozenset(
    (
        "version", "formatters", "filters", "handlers", "loggers", "root", "incremental",
        "disable_existing_loggers",
    )
)  # fmt: skip


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.suffix == ".yaml" and one.is_file())
    return [path]


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _failure(
            file, "the file does not exist", "create it with `hs generate-config`"
        ) from None
    except OSError as error:
        told = f"the file cannot be read: {error.strerror or error}"
        raise _failure(file, told, "check what it is, and its permissions") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        told = "the file is not text in UTF-8"
        raise _failure(file, told, "save it in that encoding", line) from None


def _failure(file: Path, message: str, remedy: str, line: int | None = None) -> SettingsError:
    origin = Origin(file=file, line=line)
    return SettingsError([Problem(key="", message=message, remedy=remedy, origin=origin)])


def _parsed(file: Path) -> tuple[yaml.Node | None, Any]:
    """Give the root of a file's YAML, and its value."""
    text = _text_of(file)
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            return root, None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise _failure(
            file, f"not valid YAML: {error.problem}", "check indentation and quotes there", line
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        told = f"not valid YAML: the character {error.character:#04x}"
        raise _failure(file, told, "remove it; YAML is text", line) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _failure(file, f"not valid YAML: {error}", "check indentation and quotes") from None
    except RecursionError:
        raise _failure(file, "nested too deeply", "check brackets and braces") from None


def _merge(document: Document, file: Path, *, may_be_for_logs: bool = False) -> None:
    root, value = _parsed(file)
    if may_be_for_logs and isinstance(value, dict) and "version" in value.keys() <= _LOG_KEYS:
        return
    document.files.append(file)
    if not isinstance(value, dict) or not isinstance(root, yaml.MappingNode):
        document.notices.append(
            Notice(key="", message="holds no keys, skipped", origin=Origin(file=file))
        )
        return
    seen: set[str] = set()
    for node, _ in root.value:
        name = str(node.value)
        origin = Origin(file=file, line=node.start_mark.line + 1)
        if name in seen:
            document.notices.append(
                Notice(key=name, message="written twice, the last one counts", origin=origin)
            )
        seen.add(name)
        document.origins[name] = origin
    document.values.update({str(name): one for name, one in value.items()})


def read_yaml_map(file: Path, key: str) -> dict[str, Any]:
    """Read a further YAML file that a key names. Raises: SettingsError."""
    inner = Document()
    try:
        _merge(inner, file) if file.exists() else None
    except SettingsError as error:
        raise SettingsError(attrs.evolve(one, key=key) for one in error.problems) from None
    if not inner.values:
        raise SettingsError(
            [
                Problem(
                    key=key,
                    message=f"{file} does not exist or holds no keys",
                    remedy="correct the path, or remove the key",
                )
            ]
        )
    return inner.values
