"""Events and other data that other servers send."""
