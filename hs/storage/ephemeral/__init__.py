"""Tables of presence, receipts and typing."""
