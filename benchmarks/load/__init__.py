"""What the measurement of concurrency is made of: work, callers, and one module a question."""
