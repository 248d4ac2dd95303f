"""Checkpoints with weights: what config, card and safetensors headers say, checked, without torch."""
