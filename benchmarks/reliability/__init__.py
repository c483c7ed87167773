"""What goes wrong on purpose, at scale, and what came of it."""
