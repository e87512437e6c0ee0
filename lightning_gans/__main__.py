"""``python -m lightning_gans``."""

from lightning_gans.cli.main import main

main()
