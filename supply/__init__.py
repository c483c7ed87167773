"""What the package is made of: its dependencies, their licences, weaknesses and versions."""
