"""``python -m lightning_gans``."""

from lightning_gans.cli.main import main

if __name__ == "__main__":
    main()
