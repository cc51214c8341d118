"""Application services: registry, identities, transactions, queries, third-party networks."""
