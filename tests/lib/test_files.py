"""Durable file operations, while folders are removed concurrently."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hs.lib import files


@pytest.mark.parametrize("put", [files.install, files.copy])
def test_folder_removed_concurrently_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Any
) -> None:
    source, target = tmp_path / "source", tmp_path / "content" / "aa" / "bb" / "file"
    source.write_bytes(b"content")
    real: dict[str, Any] = {"replace": os.replace, "mkstemp": tempfile.mkstemp}
    disturbances_left = {"replace": 2, "mkstemp": 2}

    def with_concurrent_removal(name: str) -> Any:
        def do(*args: Any, **keywords: Any) -> Any:
            if disturbances_left[name]:
                disturbances_left[name] -= 1
                # As when the last file of the folder is removed.
                if not any((tmp_path / "content").rglob("*.*")):
                    files.remove(target, tmp_path)
            return real[name](*args, **keywords)

        return do

    monkeypatch.setattr(os, "replace", with_concurrent_removal("replace"))
    monkeypatch.setattr(tempfile, "mkstemp", with_concurrent_removal("mkstemp"))

    put(source, target)

    assert target.read_bytes() == b"content"


def test_missing_source_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.install(tmp_path / "none", tmp_path / "a" / "b")
    with pytest.raises(FileNotFoundError):
        files.copy(tmp_path / "none", tmp_path / "a" / "b")

    assert list(tmp_path.rglob(".copy-*")) == []
