"""Explore the latent space of a model."""

from lightning_gans.latents.directions import sefa_directions
from lightning_gans.latents.inversion import Inversion, invert
from lightning_gans.latents.traversals import latent_divergences, traverse
from lightning_gans.latents.walks import walk

__all__ = ["Inversion", "invert", "latent_divergences", "sefa_directions", "traverse", "walk"]
