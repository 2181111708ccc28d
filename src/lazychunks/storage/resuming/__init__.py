"""What an earlier start of a write has left, and how another one goes on with it."""
