"""Where an array goes: what is there, and the one act that shows it."""
