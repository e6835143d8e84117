"""How work is run and stopped."""
