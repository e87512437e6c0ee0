"""The version, which can be read without importing torch."""

__version__ = "0.2.0"
