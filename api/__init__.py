"""The HTTP service: routes, the command line and the supervisor; never loads torch."""
