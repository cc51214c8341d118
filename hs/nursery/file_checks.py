"""Checks of the folders and templates that the settings name, before anything starts."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hs.lib.mail.templates import Templates
from hs.nursery.plan import MEDIA_JOBS, plan_of
from hs.nursery.wiring.mail import wire_mail
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.media import FolderProviderSettings
from hs.settings.settings import Settings


def check_files(settings: Settings) -> None:
    """Check folders and templates; nothing is written. Raises: SettingsError."""
    problems = [
        *_media_problems(settings),
        *_template_problems(settings),
        *_consent_problems(settings),
    ]
    if problems:
        raise SettingsError(problems)


def folder_fault(folder: Path) -> str | None:
    """Return why files cannot be created in a folder, which is itself created if missing."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return os.strerror(errno.ENOTDIR)
    return None if os.access(nearest, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)


def _media_problems(settings: Settings) -> Iterator[Problem]:
    if not settings.workers.serves_media and MEDIA_JOBS not in plan_of(settings).duties:
        return
    folders = [("media_store_path", settings.media.media_store_path)]
    for number, provider in enumerate(settings.media.media_storage_providers):
        place = provider.place
        if isinstance(place, FolderProviderSettings) and place.directory is not None:
            folders.append((f"media_storage_providers.{number}", place.directory))
    for key, folder in folders:
        if (fault := folder_fault(folder)) is not None:
            message = f"cannot write files in {folder}: {fault}"
            yield Problem(key=key, message=message, remedy="correct the path or the permissions")


def _template_problems(settings: Settings) -> Iterator[Problem]:
    own = settings.email.template_dir
    for path, fault in wire_mail(settings).templates.mistakes():
        is_own = own is not None and path.is_relative_to(own)
        key = "email.template_dir" if is_own else "templates.custom_template_directory"
        yield _template_problem(key, path, fault)


def _consent_problems(settings: Settings) -> Iterator[Problem]:
    folder, version = settings.consent.template_dir, settings.consent.version
    if folder is None or version is None:
        return
    paths = (*folder.glob(f"*/{version}.html"), *folder.glob("*/success.html"))
    names = sorted(str(path.relative_to(folder)) for path in paths)
    for path, fault in Templates([folder]).mistakes(names):
        yield _template_problem("user_consent.template_dir", path, fault)


def _template_problem(key: str, path: Path, fault: str) -> Problem:
    message = f"cannot use the template {path}: {fault}"
    remedy = "correct the template, or remove it to use the one of the server"
    return Problem(key=key, message=message, remedy=remedy)
