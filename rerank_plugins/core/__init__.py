"""The scoring core: numpy and the standard library only."""
