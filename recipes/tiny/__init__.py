"""The embedded checkpoint, `fastedit/assets/tiny`: `python -m recipes.tiny --output DIR`."""
