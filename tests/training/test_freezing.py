"""FreezeD: which weights stay, and that they do."""

import pytest
import torch
from torch import nn

from lightning_gans import (
    DCGAN,
    GAN,
    R3GAN,
    VAEGAN,
    ConditionalGAN,
    CycleGAN,
    Pix2Pix,
    RecurrentGAN,
    ResNetGAN,
    SettingError,
)
from lightning_gans.training.freezing import FreezeLayers
from tests.toys import LATENT_DIM, NUM_CLASSES, SHAPE, loader, make_batches, tiny

IMAGES = (1, 16, 16)


def changed(make_trainer, model, size=SHAPE, pairs=False, **options):
    """Train a model, and return which of its parameters have changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batches = make_batches(4, 4, size)
    batches = [(images, -images) for images, _ in batches] if pairs else batches
    make_trainer(**options).fit(model, loader(batches))
    return {name for name, parameter in model.named_parameters() if not parameter.equal(before[name])}


def of(network, names):
    return {name.removeprefix(f"{network}.") for name in names if name.startswith(f"{network}.")}


@pytest.mark.parametrize(
    ("num", "trained"),
    [(0, {0, 2, 3, 6}), (1, {2, 3, 6}), (2, {6})],  # a normalization, 3, goes with the convolution before it
)
def test_lower_layers_keep_their_weights(make_trainer, num, trained):
    model = DCGAN((1, 16, 16), LATENT_DIM, width=4, dense_dims=[5], freeze_layers=num)
    assert isinstance(model.discriminator.layers[3], nn.BatchNorm2d)
    names = of("discriminator", changed(make_trainer, model, (1, 16, 16)))
    assert {int(name.split(".")[1]) for name in names if name.startswith("layers.")} == trained
    assert {"output.weight", "output.bias"} <= names
    assert model.arguments["freeze_layers"] == num


@pytest.mark.parametrize(
    ("make", "num", "frozen"),
    [
        (lambda **o: tiny(ConditionalGAN, **o), 1, {"hidden.0.weight", "hidden.0.bias"}),
        (
            lambda **o: ResNetGAN(SHAPE, LATENT_DIM, NUM_CLASSES, generator_width=4, discriminator_width=4, **o),
            2,
            {
                f"blocks.0.residual.{layer}.{name}"
                for layer in (0, 1)
                for name in ("bias", "parametrizations.weight.original")
            },
        ),
        (lambda **o: R3GAN(SHAPE, LATENT_DIM, widths=[8, 4], blocks=1, **o), 1, {"layers.0.weight"}),
        (
            lambda **o: RecurrentGAN(SHAPE, LATENT_DIM, hidden_dim=4, cell="gru", **o),
            1,
            {
                f"recurrent.{kind}_{way}_l0{back}"
                for kind in ("weight", "bias")
                for way in ("ih", "hh")
                for back in ("", "_reverse")
            },
        ),
        (lambda **o: VAEGAN(SHAPE, LATENT_DIM, width=4, **o), 1, {"layers.0.weight", "layers.0.bias"}),
    ],
    ids=["mlp", "resnet", "r3gan", "gru", "vae_gan"],
)
def test_every_network_has_layers_to_freeze(make_trainer, make, num, frozen):
    model = make(freeze_layers=num)
    make_trainer().fit(model, loader(make_batches(1)))
    found = {name for name, parameter in model.discriminator.named_parameters() if not parameter.requires_grad}
    assert found == frozen
    others = (p for name, p in model.named_parameters() if not name.startswith(("discriminator.", "ema.")))
    assert all(parameter.requires_grad for parameter in others)


def test_all_discriminators_of_a_translator_are_frozen(make_trainer):
    model = CycleGAN(IMAGES, width=4, num_blocks=1, num_layers=1, pool_size=2, freeze_layers=1)
    names = changed(make_trainer, model, IMAGES, pairs=True)
    for name in ("target_discriminator", "source_discriminator"):
        assert not {"layers.0.weight", "layers.0.bias"} & of(name, names) and "layers.2.weight" in of(name, names)
    model = Pix2Pix(IMAGES, width=4, num_layers=1, freeze_layers=2)
    names = of("discriminator", changed(make_trainer, model, IMAGES, pairs=True))
    assert names == {"layers.5.weight", "layers.5.bias"}


def test_a_module_of_the_users_own_names_its_networks(make_trainer):
    model = tiny(GAN, generator=nn.Sequential(nn.Linear(LATENT_DIM, 8), nn.Linear(8, 64), nn.Unflatten(1, SHAPE)))
    names = changed(make_trainer, model, callbacks=[FreezeLayers(1, ("generator",))])
    assert of("generator", names) == {"1.weight", "1.bias"}
    assert len(of("discriminator", names)) == 4


@pytest.mark.parametrize("num", [-1, 1.5, 2, 9])
def test_a_number_of_layers_that_leaves_none_is_invalid(make_trainer, num):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(GAN, freeze_layers=num), loader(make_batches(1)))
    assert (error.value.setting, error.value.value) == ("freeze_layers", num)


def test_a_transfer_keeps_the_lower_layers_of_the_checkpoint(make_trainer, tmp_path):
    trainer, path = make_trainer(), tmp_path / "last.ckpt"
    trained = tiny(DCGAN)
    trainer.fit(trained, loader(make_batches(2)))
    trainer.save_checkpoint(path)
    model = tiny(DCGAN, freeze_layers=1, penalties={"r1": 0.1})
    assert not model.load_weights(path, strict=False).kept
    changed(make_trainer, model)
    first, own = trained.discriminator.layers[0], model.discriminator.layers[0]
    assert torch.equal(first.weight, own.weight)
    assert not torch.equal(trained.discriminator.output.weight, model.discriminator.output.weight)
