"""E-mail addresses and phone numbers: validation, and publishing them at identity servers."""
