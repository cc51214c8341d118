"""The only door to sqlite3: `tx` runs units on a connection, `threads` is the database."""
