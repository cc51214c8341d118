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


@pytest.mark.parametrize("umask", [0, 0o077, 0o277])
def test_new_folders_and_files_belong_to_their_owner_only(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.make_folders(tmp_path / "a" / "b")
        os.close(files.open_new(tmp_path / "a" / "b" / "file"))
    finally:
        os.umask(before)

    paths = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file"]
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o700, 0o700, 0o600]


def test_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    files.make_folders(tmp_path)

    assert tmp_path.stat().st_mode & 0o777 == 0o755
