"""Doors into other projects: one thin file each, imported only when it is used."""
