"""Running functions on untrusted input in separate processes with limits."""
