"""What can be wrong with a configuration, told so that an administrator can put it right."""

from collections.abc import Iterable
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Origin:
    """The place a key came from."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "(no file)"
        return f"{self.file}:{self.line}" if self.line else str(self.file)


@attrs.frozen(kw_only=True)
class Problem:
    """One mistake that keeps the server from starting."""

    key: str
    message: str
    remedy: str
    origin: Origin = Origin()

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin.file else ""
        subject = f"{self.key}: " if self.key else ""
        return f"{place}{subject}{self.message}\n    → {self.remedy}"


@attrs.frozen(kw_only=True)
class Notice:
    """Something the administrator should know although the server starts."""

    key: str
    message: str
    is_warning: bool = True
    is_unknown_key: bool = False
    origin: Origin = Origin()

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin.file else ""
        subject = f"{self.key}: " if self.key else ""
        return f"{place}{subject}{self.message}"


class SettingsError(Exception):
    """The configuration cannot be used; `problems` names each file, key and remedy.

    `notices` is what was noticed besides, such as the misspelt name of a key that is missing.
    """

    def __init__(self, problems: Iterable[Problem], notices: Iterable[Notice] = ()) -> None:
        self.problems = tuple(problems)
        self.notices = tuple(notices)
        super().__init__("\n".join(str(problem) for problem in self.problems))
