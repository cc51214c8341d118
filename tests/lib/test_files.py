"""Files come to their places whatever others do to the folders there meanwhile."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hs.lib import files


@pytest.mark.parametrize("put", [files.install, files.copy])
def test_a_folder_that_is_cleared_away_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Any
) -> None:
    source, target = tmp_path / "source", tmp_path / "content" / "aa" / "bb" / "file"
    source.write_bytes(b"content")
    real: dict[str, Any] = {"replace": os.replace, "mkstemp": tempfile.mkstemp}
    left = {"replace": 2, "mkstemp": 2}

    def disturbed(name: str) -> Any:
        def do(*args: Any, **more: Any) -> Any:
            if left[name]:
                left[name] -= 1
                # The last file of the folder goes.
                if not any((tmp_path / "content").rglob("*.*")):
                    files.remove(target, tmp_path)
            return real[name](*args, **more)

        return do

    monkeypatch.setattr(os, "replace", disturbed("replace"))
    monkeypatch.setattr(tempfile, "mkstemp", disturbed("mkstemp"))

    put(source, target)

    assert target.read_bytes() == b"content"


def test_a_source_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.install(tmp_path / "none", tmp_path / "a" / "b")
    with pytest.raises(FileNotFoundError):
        files.copy(tmp_path / "none", tmp_path / "a" / "b")

    assert list(tmp_path.rglob(".copy-*")) == []
