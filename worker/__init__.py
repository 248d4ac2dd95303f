"""Does the work that takes long: imports and refits today, probes and finetunes on a GPU to come.

The only package that may import torch and transformers.
"""
