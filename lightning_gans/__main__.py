"""``python -m lightning_gans``."""

from lightning_gans.cli import main

main()
