"""How payloads leave, and where they wait."""
