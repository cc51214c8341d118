"""The web server: connections, routing, typed requests, authentication, responses."""
