"""The bases of the study of edits: `python -m recipes.edits --output DIR`."""
