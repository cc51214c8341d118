"""Which of several processes writes what: slots, their holders, and how they change hands."""
