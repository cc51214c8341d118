"""The composition root, a module per subject: plain constructor calls in dependency order."""
