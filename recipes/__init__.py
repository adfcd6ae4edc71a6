"""How checkpoints of this repository are made; run from its root, and not in the wheel."""
