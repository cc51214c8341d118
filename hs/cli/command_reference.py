"""The page of all commands, written from their declarations; `hs reference` writes the file."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hs.cli.main import EXIT_FAILED, cli
from hs.settings.errors import EXIT_BAD_CONFIG

_HEAD = f"""\
# Command line

<!-- Written by `hs.cli.command_reference` from the commands; do not edit by hand. -->

After `scripts/start.sh`, the program is `.venv/bin/hs`. `hs COMMAND --help` shows the same text as
this page.

Exit codes: 0 for success, {EXIT_FAILED} for a failure, {EXIT_BAD_CONFIG} for arguments or a \
configuration that cannot be used.
"""
_DEFAULT_IN_HELP = re.compile(r"\s*\[default: (.+)\]$")
_SHOWN_DEFAULTS = (str, int, float, Path)


def markdown() -> str:
    """Return the page for administrators."""
    parts = [_HEAD]
    context = click.Context(cli, info_name="hs")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts.append(_section(name, command, context))
    return "\n".join(parts)


def _section(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(["hs", name, *command.collect_usage_pieces(context)])
    lines = [f"## hs {name}", "", "```sh", usage, "```", ""]
    lines.append(_escaped(inspect.cleandoc(command.help or "")))
    rows = list(_rows(command))
    if rows:
        lines += ["", "| option | meaning |", "| --- | --- |", *rows]
    if command.epilog:
        lines += ["", _escaped(command.epilog)]
    return "\n".join([*lines, ""])


def _rows(command: click.Command) -> Iterator[str]:
    for param in command.params:
        described = param.to_info_dict()
        if described["param_type_name"] == "option":
            yield f"| {_names(described)} | {_escaped(_meaning(described))} |"


def _names(option: dict[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in (*option["opts"], *option["secondary_opts"]))
    if option["is_flag"]:
        return names
    kind = option["type"]
    if "min" in kind:
        return f"{names} *{kind['min']} to {kind['max']}*"
    return f"{names} *{kind['name']}*"


def _meaning(option: dict[str, Any]) -> str:
    help_text = option["help"] or ""
    in_help = _DEFAULT_IN_HELP.search(help_text)
    sentences = [_DEFAULT_IN_HELP.sub("", help_text)]
    default = in_help[1] if in_help is not None else _default(option)
    if option["required"]:
        sentences.append("Required.")
    if default:
        sentences.append(f"Default: `{default}`.")
    if option["envvar"]:
        sentences.append(f"Environment variable: `{option['envvar']}`.")
    return " ".join(sentence for sentence in sentences if sentence)


def _default(option: dict[str, Any]) -> str:
    default = option["default"]
    if option["is_flag"]:
        return ""
    if option["multiple"] and isinstance(default, list | tuple):
        return " ".join(str(value) for value in default)
    return str(default) if isinstance(default, _SHOWN_DEFAULTS) else ""


def _escaped(text: str) -> str:
    """Keep Markdown from reading emphasis or table cells into a text."""
    return text.replace("*", "\\*").replace("|", "\\|")
