"""An hour under load: what the soak is made of, one module a question."""
