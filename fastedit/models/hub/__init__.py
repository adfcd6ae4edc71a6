"""Classes for checkpoints as they stand on the Hub, of transformers' and a row of the table."""
