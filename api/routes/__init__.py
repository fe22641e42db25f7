"""The HTTP surface: each route translates, and one function does the work."""
