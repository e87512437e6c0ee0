"""Checkpoints of every model, small and untrained but for what a fit of no steps writes."""

import pytest
import torch

from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    VAE,
    VAEGAN,
    ConditionalGAN,
    RecurrentGAN,
    ResNetGAN,
)
from tests.toys import quiet_trainer

SHAPE = (1, 8, 8)
CONV = (1, 16, 16)

MODELS = {
    "gan": lambda: GAN(SHAPE, 4, generator_dims=[6], discriminator_dims=[6]),
    "dcgan": lambda: DCGAN(CONV, 4, width=4, dense_dims=[8]),
    "conditional": lambda: ConditionalGAN(SHAPE, 4, 3, generator_dims=[6], discriminator_dims=[6]),
    "conditional_conv": lambda: ConditionalGAN(
        CONV, 4, 3, architecture="conv", width=4, dense_dims=[8], generator_conditioning="batch_norm"
    ),
    "resnet": lambda: ResNetGAN((3, 32, 32), 4, 3, generator_width=8, discriminator_width=8),
    "r3gan": lambda: R3GAN((1, 16, 16), 4, 3, widths=[16, 16, 16], blocks=1),
    "recurrent": lambda: RecurrentGAN((1, 8), 4, 3, hidden_dim=8, num_layers=2),
    "rows": lambda: RecurrentGAN(SHAPE, 10, hidden_dim=8, cell="gru", step_noise=1),
    "vae": lambda: VAE(SHAPE, 4, encoder_dims=[6], decoder_dims=[6]),
    "conditional_vae": lambda: VAE(CONV, 4, 3, architecture="conv", width=4, likelihood="gaussian"),
    "vae_gan": lambda: VAEGAN((1, 16, 16), 4, 3, width=4),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Files of all of :data:`MODELS` by their names."""
    folder = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make()
        for name_of, tensor in model.state_dict().items():  # as after a training, and wide enough to be seen
            if name_of.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() > 1 and tensor.is_floating_point():
                tensor.normal_(0.0, tensor[0].numel() ** -0.5)
        trainer = quiet_trainer(folder)
        trainer.strategy.connect(model)
        model.trainer = trainer
        path = folder / f"{name}.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        found[name] = str(path)
    return found


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Run each test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
