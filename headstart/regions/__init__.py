"""Regions of weight space: what a family's finetunes have in common, told from their task vectors. Pure."""
