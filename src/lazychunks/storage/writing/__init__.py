"""Blocks on their way into an array: from a sink to whole units."""
