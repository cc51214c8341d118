"""Recognizes Synapse's database file before it is opened, which would change it."""

import sqlite3
from pathlib import Path
from typing import Final

# Every database of Synapse has this table, and none of hs.
SYNAPSE_TABLE: Final = "applied_schema_deltas"
_FIND: Final = "SELECT 1 FROM sqlite_master WHERE name = ?"
_WAIT_S = 5.0


def is_synapses_file(path: Path) -> bool:
    """Return whether a file is a database of Synapse; False also if that cannot be told."""
    if not path.is_file():
        return False
    try:
        conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)
        try:
            return conn.execute(_FIND, (SYNAPSE_TABLE,)).fetchone() is not None
        finally:
            conn.close()
    except sqlite3.Error:
        return False  # opening it reports what is wrong with it
