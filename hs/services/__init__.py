"""What the server does: one class per concern, built of its dependencies."""
