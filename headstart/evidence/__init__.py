"""How published or a platform's own scores come in: sources, importers, quality gates."""
