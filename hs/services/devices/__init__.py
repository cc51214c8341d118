"""End-to-end encryption's server side: keys, device lists, messages to devices, key backups."""
