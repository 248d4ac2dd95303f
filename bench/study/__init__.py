"""The study: our own evidence of what intermediate training is worth, measured by jobs of the service."""
