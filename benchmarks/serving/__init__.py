"""Our server beside somebody else's, each in an environment and a process of its own."""
