"""The commands of `momentum`, a file for each topic; what takes long to import is imported late."""
