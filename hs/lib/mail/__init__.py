"""E-mail: rendering of texts from templates, and delivery over SMTP."""
