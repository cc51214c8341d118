"""Options that several commands share, and the loading of the settings they name."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from hs.settings.generate import CONFIG_NAME
from hs.settings.ineffective import OPTION, RESTRICTING_KEYS
from hs.settings.load import load_settings
from hs.settings.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DATA = Path("data")
# How the steps of a check are marked: good, bad, or neither.
STEP_MARKS = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("-", "yellow")}
DEFAULT_CONFIGS = (DEFAULT_DATA / CONFIG_NAME,)


def config_option(command: F) -> F:
    """Add the option --config, which may be repeated; later files override earlier ones."""
    return click.option(
        "-c",
        "--config",
        "--config-path",
        "configs",
        multiple=True,
        type=click.Path(path_type=Path),
        envvar="HS_CONFIG",
        help="Configuration file, or directory of *.yaml files; may be repeated. For a worker: the "
        "shared file first, then the worker's file. [default: data/homeserver.yaml]",
    )(command)


def allow_ineffective_option(command: F) -> F:
    """Add the option --allow-ineffective, which may be repeated."""
    return click.option(
        OPTION,
        "allow_ineffective",
        metavar="KEY",
        multiple=True,
        type=click.Choice(sorted(RESTRICTING_KEYS)),
        envvar="HS_ALLOW_INEFFECTIVE",
        help="Start although this key restricts or identifies users or servers and has no effect "
        "in this version; may be repeated. `modules` is such a key.",
    )(command)


def load_command_settings(
    configs: tuple[Path, ...],
    *,
    strict: bool = False,
    allow_ineffective: Collection[str] = RESTRICTING_KEYS,
) -> Settings:
    """Load the settings that a command's --config options name.

    Commands that do not serve clients allow all keys without effect.

    Raises: SettingsError.
    """
    return load_settings(
        configs or DEFAULT_CONFIGS,
        strict=strict,
        allow_ineffective=allow_ineffective,
    )
