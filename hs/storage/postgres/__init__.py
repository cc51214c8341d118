"""The only door to asyncpg: `pool` keeps connections, `database` runs units on them."""
