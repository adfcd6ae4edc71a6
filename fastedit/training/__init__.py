"""Training: noise, objective, optimiser and the recipe of the embedded checkpoint."""
