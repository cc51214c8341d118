"""Problems and notices of a configuration, worded for administrators."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

EXIT_BAD_CONFIG = 2
"""The exit status of a command or process whose configuration cannot be used."""


@attrs.frozen(kw_only=True)
class Origin:
    """The file and line of a key."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "(no file)"
        return f"{self.file}:{self.line}" if self.line else str(self.file)


@attrs.frozen(kw_only=True)
class Problem:
    """A mistake that keeps the server from starting: the key, what is wrong, and the remedy."""

    key: str
    message: str
    remedy: str
    origin: Origin = Origin()

    def __str__(self) -> str:
        location = f"{self.origin}: " if self.origin.file else ""
        subject = f"{self.key}: " if self.key else ""
        return f"{location}{subject}{self.message}\n    → {self.remedy}"


@attrs.frozen(kw_only=True)
class Notice:
    """Something that the administrator should know, although the server starts.

    `new_secret` is the file of a secret that `hs serve` creates.
    """

    key: str
    message: str
    is_warning: bool = True
    is_unknown_key: bool = False
    origin: Origin = Origin()
    new_secret: Path | None = None

    def __str__(self) -> str:
        location = f"{self.origin}: " if self.origin.file else ""
        subject = f"{self.key}: " if self.key else ""
        return f"{location}{subject}{self.message}"


class SettingsError(Exception):
    """The configuration cannot be used; `problems` name file, line, key and remedy.

    `notices` were found besides: for example a misspelt key may explain why another is missing.
    """

    def __init__(self, problems: Iterable[Problem], notices: Iterable[Notice] = ()) -> None:
        self.problems = tuple(problems)
        self.notices = tuple(notices)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def located(self, origins: Mapping[str, Origin], default: Origin) -> "SettingsError":
        """Return the error with the origin of its key for each problem that has none yet."""
        return SettingsError(
            (
                problem
                if problem.origin.file
                else attrs.evolve(
                    problem, origin=origins.get(problem.key.partition(".")[0], default)
                )
                for problem in self.problems
            ),
            self.notices,
        )
