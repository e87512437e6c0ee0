"""The losses of a first training step, for tests that compare them with a computation by hand."""

from unittest.mock import patch

import torch

from lightning_gans import randomness
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, loader


def first_losses(trainer, model, *batches):
    """Return the loss of each update of a model's first step, with its graph; nothing is updated."""
    found = []
    with patch("lightning_gans.training.step.update", lambda module, loss, *optimizers, **place: found.append(loss)):
        trainer.fit(model, loader(batches))
    return found


def first_noise(model, num=8, update=0):
    """Return the noise of a first step."""
    return randomness.randn((num, LATENT_DIM), model.run_seed, Stream.NOISE, 0, update)


def like(model, other):
    """Give a model the weights and the seed of another."""
    model.load_state_dict(other.state_dict())
    model.run_seed = other.run_seed
    return model


def gradients(loss, network):
    """Return a loss's gradients; zeros for weights without one."""
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
