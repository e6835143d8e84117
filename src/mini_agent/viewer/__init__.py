"""A window on what passed; never a door."""
