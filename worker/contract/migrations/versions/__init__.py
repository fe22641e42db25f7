"""One file for each change of the schema, in order; a file that has landed never changes."""
