"""Login: passwords, login tokens, JSON web tokens, application services."""
