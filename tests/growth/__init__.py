"""The growth benchmark: what one request costs as rooms, histories and accounts grow.

    scripts/test.sh -m growth -n 0 tests/growth            every row, on both engines
    scripts/test.sh -m growth -n 0 tests/growth -k paging  one row

Each module is a row of the table "Growth" of docs/performance.md: it writes a shape of several
sizes through the appender of a composed process (`shapes.py`), sends the same request at each size
through the application, without sockets, and records the figures (`Growth.measure`). The summary of
the run prints the table. Beware of caches: an operation that is answered from one measures nothing,
unless that is the row. Figures never decide a test: a module asserts that the answers are right.
"""
