"""Fixtures that load settings from texts."""

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from hs.settings.errors import SettingsError
from hs.settings.load import load_settings
from hs.settings.settings import Settings

Load = Callable[..., Settings]
Refused = Callable[..., str]

SERVER_NAME = "server_name: example.org\n"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load settings from the texts of one or more files; the first gets a server name."""

    def load_texts(
        *texts: str,
        strict: bool = False,
        environ: dict[str, str] | None = None,
        allow_ineffective: Collection[str] = (),
    ) -> Settings:
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text if number or "server_name" in text else SERVER_NAME + text)
            paths.append(path)
        return load_settings(
            paths, environ or {}, strict=strict, allow_ineffective=allow_ineffective
        )

    return load_texts


@pytest.fixture
def refused(load: Load) -> Refused:
    """Load texts that must be rejected; return the error message."""

    def message_for(
        *texts: str, strict: bool = False, allow_ineffective: Collection[str] = ()
    ) -> str:
        with pytest.raises(SettingsError) as error:
            load(*texts, strict=strict, allow_ineffective=allow_ineffective)
        return str(error.value)

    return message_for


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the logging configuration after a test that changes it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            target = getattr(handler, "target", None)
            handler.close()
            if target is not None:
                target.close()
    root.handlers[:] = handlers
    root.setLevel(level)
