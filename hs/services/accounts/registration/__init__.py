"""Registration of accounts."""
