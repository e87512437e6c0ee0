"""Checkpoints of every model, small and untrained but for what a fit of no steps writes."""

import pytest
import torch

from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    VAE,
    VAEGAN,
    VQVAE,
    ConditionalGAN,
    InfoGAN,
    RecurrentGAN,
    ResNetGAN,
)
from lightning_gans.io.attributes import Attributes
from lightning_gans.training.checkpoint_format import describe
from tests.toys import quiet_trainer

SHAPE = (1, 8, 8)
CONV = (1, 16, 16)

ATTENTIVE = {
    "attention": [8],
    "generator_width": 8,
    "discriminator_width": 8,
    "generator_spectral_norm": True,
}
ATTRIBUTES = Attributes(("smiling", "angle"), (0.0, -45.0), (1.0, 45.0), ((0.0, 0.5), (1.0, 0.25), (1.0, 1.0)))


def with_attributes(model):
    model.attributes = ATTRIBUTES
    return model


MODELS = {
    "gan": lambda: GAN(SHAPE, 4, generator_dims=[6], discriminator_dims=[6]),
    "dcgan": lambda: DCGAN(CONV, 4, width=4, dense_dims=[8]),
    "conditional": lambda: ConditionalGAN(SHAPE, 4, 3, generator_dims=[6], discriminator_dims=[6]),
    "conditional_conv": lambda: ConditionalGAN(
        CONV, 4, 3, architecture="conv", width=4, dense_dims=[8], generator_conditioning="batch_norm"
    ),
    "infogan": lambda: InfoGAN(CONV, 4, 3, width=4, dense_dims=[8]),
    "attributes": lambda: with_attributes(ConditionalGAN(CONV, 4, 2, architecture="conv", width=4)),
    "resnet": lambda: ResNetGAN((3, 32, 32), 4, 3, generator_width=8, discriminator_width=8),
    "biggan": lambda: ResNetGAN((1, 16, 16), 6, 3, architecture="biggan", **ATTENTIVE),
    "r3gan": lambda: R3GAN((1, 16, 16), 4, 3, widths=[16, 16, 16], blocks=1),
    "recurrent": lambda: RecurrentGAN((1, 8), 4, 3, hidden_dim=8, num_layers=2),
    "rows": lambda: RecurrentGAN(SHAPE, 10, hidden_dim=8, cell="gru", step_noise=1),
    "vae": lambda: VAE(SHAPE, 4, encoder_dims=[6], decoder_dims=[6]),
    "conditional_vae": lambda: VAE(CONV, 4, 3, architecture="conv", width=4, likelihood="gaussian"),
    "vamp_vae": lambda: VAE(SHAPE, 4, 3, encoder_dims=[6], decoder_dims=[6], prior="vamp", prior_components=5),
    "vqvae": lambda: VQVAE(CONV, 3, width=4, code_dim=3, num_codes=8, prior_width=8, prior_layers=1, prior_heads=2),
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
            elif "parametrizations" in name_of:
                pass  # spectral norm: other weights would not fit its singular vectors, and saturate every pixel
            elif tensor.dim() > 1 and tensor.is_floating_point():
                tensor.normal_(0.0, tensor[0].numel() ** -0.5)
        trainer = quiet_trainer(folder)
        trainer.strategy.connect(model)
        model.trainer = trainer
        path = folder / f"{name}.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        if model.attributes is not None:  # which hyperparameters do not have
            content = torch.load(path)
            describe(model, content)
            torch.save(content, path)
        found[name] = str(path)
    return found


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Run each test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
