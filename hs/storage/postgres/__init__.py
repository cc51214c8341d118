"""The only package that imports asyncpg: `pool` holds connections, `database` runs units."""
