"""What Headstart knows: evidence, scoring and advice, without torch and without HTTP."""

__version__ = "0.1.0"
