"""Training of the embedded cross-encoder: prepare, mine, train, export, evaluate."""
