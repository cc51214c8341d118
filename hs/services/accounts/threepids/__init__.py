"""Third-party identifiers: validation of e-mail addresses and phone numbers, identity servers."""
