"""Native model code, one folder per architecture, and the adapters that are merged into it."""
