"""What passes: who types, who has read what, who is online."""
