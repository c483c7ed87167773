"""How the embedded cross-encoder is made: prepare, mine, train, evaluate, calibrate, export."""
