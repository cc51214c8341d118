"""The transaction queues of application services."""
