"""Models of a few hundred weights, and data for them."""

from functools import partial
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch.utils.data import DataLoader

from lightning_gans import DCGAN, GAN, VAE, ConditionalGAN, ResNetGAN
from lightning_gans.datamodules import ImageDataModule
from lightning_gans.networks import BigGANGenerator, ResNetDiscriminator
from lightning_gans.training.step import TrainingStep

SHAPE = (1, 8, 8)
LATENT_DIM = 4
NUM_CLASSES = 3

_OPTIONS = {
    GAN: {"generator_dims": [6], "discriminator_dims": [6], "dropout": 0.0},
    DCGAN: {"width": 4},
    ConditionalGAN: {
        "num_classes": NUM_CLASSES,
        "generator_dims": [6],
        "discriminator_dims": [6],
        "dropout": 0.0,
    },
    VAE: {"encoder_dims": [6], "decoder_dims": [6]},
}
MODELS = tuple(_OPTIONS)


def tiny(cls, **options):
    """Make a tiny model of a class, or of a subclass, of the package."""
    known = next(base for base in cls.__mro__ if base in _OPTIONS)
    return cls(**{"image_shape": SHAPE, "latent_dim": LATENT_DIM, **_OPTIONS[known], **options})


def tiny_biggan(**options):
    """Make BigGAN's networks, with attention and spectral normalization in both."""
    return ResNetGAN(
        *(SHAPE, LATENT_DIM, NUM_CLASSES),
        generator=BigGANGenerator(SHAPE, LATENT_DIM, 8, NUM_CLASSES, [8]),
        discriminator=ResNetDiscriminator(SHAPE, 8, NUM_CLASSES, attention=[4], initialization="orthogonal"),
        **{"loss": "hinge", **options},
    )


def quiet_trainer(folder, **options):
    """Make a trainer on the CPU that writes nothing but what it is asked to."""
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return pl.Trainer(**{**defaults, **options})


def make_batches(count, size=8, shape=SHAPE, seed=0):
    """Make batches of random images in [-1, 1] and labels."""
    source = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(size, *shape, generator=source) * 2 - 1,
            torch.randint(NUM_CLASSES, (size,), generator=source),
        )
        for _ in range(count)
    ]


def loader(batches):
    """Give batches as they are, in their order."""
    return DataLoader(batches, batch_size=None)


def weights(network):
    """Copy a network's weights."""
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(first, second):
    """Whether two lists of tensors, or networks, agree in every bit."""
    first, second = (list(x.parameters()) if isinstance(x, torch.nn.Module) else x for x in (first, second))
    return all(a.equal(b) for a, b in zip(first, second, strict=True))


class Updates(Callback):
    """Records each step of an optimizer: its network, and the gradients and the weights of all networks after it."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        for name, optimizer in zip(pl_module.trained_networks, trainer.optimizers, strict=True):
            optimizer.register_step_post_hook(partial(self.note, name, trainer, pl_module))

    def note(self, name, trainer, model, *_):
        networks = model.networks(model.trained_networks)
        gradients = {
            n: [None if p.grad is None else p.grad.clone() for p in networks[n].parameters()] for n in networks
        }
        after = {n: weights(network) for n, network in networks.items()}
        self.seen.append(SimpleNamespace(name=name, step=trainer.global_step, gradients=gradients, weights=after))

    @property
    def names(self):
        """The networks in the order of their steps."""
        return [update.name for update in self.seen]

    def gradients_of(self, name):
        """Return the gradient of each step of a network, flat and in float64."""
        gradients = [update.gradients[name] for update in self.seen if update.name == name]
        return [torch.cat([g.flatten().double() for g in of if g is not None]) for of in gradients]


def lone_step(*, world_size=1, rank=0, global_step=0, accumulate=1, run_seed=0, attributes=None, of=None):
    """Make a training step of a stand-in for a model, with the terms of one, in one process of several."""
    trainer = SimpleNamespace(
        world_size=world_size,
        global_step=global_step,
        max_steps=-1,
        log_every_n_steps=0,
        num_training_batches=100,
        is_last_batch=False,
        fit_loop=SimpleNamespace(batch_idx=0),
    )
    model = SimpleNamespace(
        trainer=trainer,
        accumulate_batches=accumulate,
        collect=lambda batch, count: [],
        regularizers=getattr(of, "regularizers", ()),
        augment=getattr(of, "augment", ()),
        loss=getattr(of, "loss", "nonsaturating"),
        global_rank=rank,
        run_seed=run_seed,
        attributes=attributes,
        latent_dim=LATENT_DIM,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return TrainingStep(model, None)


class Toys(ImageDataModule):
    """Random pictures of three classes, in memory; by default of 8 x 8 pixels."""

    class_names = ("a", "b", "c")
    image_shape = SHAPE

    def __init__(self, num_images=40, batch_size=4, val_size=8, flip=True, shape=SHAPE, **options):
        super().__init__(batch_size, val_size, **options)
        self.num_images = num_images
        self.image_shape = shape
        self.horizontal_flip = flip

    def load_images(self, split):
        if split != "train":
            return None
        source = torch.Generator().manual_seed(0)
        images = torch.randint(256, (self.num_images, *self.image_shape), generator=source, dtype=torch.uint8)
        return images, torch.arange(self.num_images) % NUM_CLASSES


class VectorToys(Toys):
    """The same pictures with two attributes: a number, and one that every other picture has."""

    class_names = ("level", "odd")

    def load_images(self, split):
        if split != "train":
            return None
        images, _ = super().load_images(split)
        numbers = torch.arange(self.num_images).float()
        return images, torch.stack([20 - numbers, numbers % 2], dim=1)


def toys_for(model, **options):
    """Make data with the shape and the labels of a model: two attributes if it has two classes."""
    kind = VectorToys if model.num_classes == len(VectorToys.class_names) else Toys
    return kind(shape=model.image_shape, **options)
