"""End-to-end tests of servers with several processes, and of crashes and restarts."""
