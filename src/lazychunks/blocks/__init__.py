"""Where blocks come from: factories, iterating them, and computing ahead."""
