"""The composition root, a module or folder per subject: constructor calls in dependency order."""
