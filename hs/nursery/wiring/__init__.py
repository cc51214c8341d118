"""The composition root, a module or folder per subject: plain constructor calls in dependency order."""
