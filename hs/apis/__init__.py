"""The HTTP endpoints, and the web server that serves them."""
