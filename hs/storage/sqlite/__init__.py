"""The only package that imports sqlite3: `tx` runs units, `threads` is the Database."""
