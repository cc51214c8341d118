"""The configuration of each process of a server: files, and settings that replace theirs."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from hs.settings.cluster_checks import ClusterFindings, check_cluster, check_names_differ
from hs.settings.documents import Document, read_documents
from hs.settings.errors import Notice, Origin, Problem, SettingsError
from hs.settings.load import settings_from
from hs.settings.settings import Settings


@attrs.frozen(kw_only=True)
class ProcessFiles:
    """The files of one process, and the keys that the supervisor sets besides."""

    name: str
    files: tuple[Path, ...]
    overlay: Mapping[str, Any] = attrs.field(factory=dict)

    def load(self, allow_ineffective: Collection[str]) -> Settings:
        """Load the settings of the process. Raises: SettingsError."""
        return settings_from(self.document(), os.environ, allow_ineffective=allow_ineffective)

    def document(self) -> Document:
        """Return the merged keys. Raises: SettingsError."""
        document = read_documents(self.files)
        for key, value in self.overlay.items():
            # A key that the files have as well keeps its place: relative paths start there.
            document.origins.setdefault(key, Origin(file=self.files[0]))
            document.values[key] = value
        return document


def load_all(
    processes: Sequence[ProcessFiles], allow_ineffective: Collection[str]
) -> dict[str, Settings]:
    """Load the settings of all processes.

    Raises: SettingsError, with the problems of all of them.
    """
    found: list[Settings] = []
    problems: list[Problem] = []
    notices: list[Notice] = []
    for process in processes:
        try:
            found.append(process.load(allow_ineffective))
        except SettingsError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            notices += [notice for notice in error.notices if notice not in notices]
    names = ClusterFindings(problems)
    check_names_differ(found, names)
    if names.problems:
        raise SettingsError(names.problems, notices)
    return {process.name: settings for process, settings in zip(processes, found, strict=True)}


def check_together(all_settings: Mapping[str, Settings]) -> list[Notice]:
    """Check main, which is first, and all workers together; return the notices, each once.

    Raises: SettingsError.
    """
    main, *workers = all_settings.values()
    findings = check_cluster(main, workers)
    if findings.problems:
        raise SettingsError(findings.problems, findings.notices)
    own = (notice for settings in all_settings.values() for notice in settings.notices)
    return list(dict.fromkeys([*own, *findings.notices]))
