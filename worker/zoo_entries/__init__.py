"""The zoo entry that the project ships, with the script that trained it."""
