"""Native model code; one folder per architecture."""
