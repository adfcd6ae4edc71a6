"""Training of token editing: a step, and the folders around it."""
