"""Writing a ready board: agent, wheels, unit, identity or claim, first bundle."""
