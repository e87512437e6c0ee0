"""Labels that are vectors of attributes, from the data to the samples of a checkpoint."""

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from lightning_gans import VAE, ConditionalGAN, DataError, ResNetGAN, SettingError, load
from lightning_gans.callbacks.grids import SampleGrid
from lightning_gans.io.attributes import Attributes
from lightning_gans.latents import invert, traverse, walk
from lightning_gans.metrics.samples import draw, labels_in_turn
from lightning_gans.training.regularizers import mismatched_labels
from tests.toys import SHAPE, Toys, VectorToys, loader, lone_step, make_batches, tiny

ROWS = ((0.0, 1.0), (0.25, 0.0), (1.0, 0.0))
ATTRIBUTES = Attributes(("level", "odd"), (-20.0, 0.0), (20.0, 1.0), ROWS)
MODELS = {
    "mlp": partial(tiny, ConditionalGAN, num_classes=2),
    "conv": partial(tiny, ConditionalGAN, num_classes=2, architecture="conv", width=4),
    "batch_norm": partial(
        tiny, ConditionalGAN, num_classes=2, architecture="conv", width=4, generator_conditioning="batch_norm"
    ),
    "resnet": partial(ResNetGAN, SHAPE, 4, 2, generator_width=4, discriminator_width=4),
    "auxiliary": partial(ResNetGAN, SHAPE, 4, 2, generator_width=4, discriminator_width=4, conditioning="auxiliary"),
    "vae": partial(tiny, VAE, num_classes=2),
    "vamp_vae": partial(tiny, VAE, num_classes=2, prior="vamp", prior_components=3),
}


def with_attributes(model):
    model.attributes = ATTRIBUTES
    return model


@pytest.mark.parametrize("name", MODELS)
def test_training_sampling_and_loading(make_trainer, tmp_path, name):
    torch.manual_seed(0)
    model, data = MODELS[name](), VectorToys()
    trainer = make_trainer(max_steps=3)
    trainer.fit(model, data)
    assert model.attributes == data.attributes
    images = model.sample(5, seed=1, start=2)
    rows = data.attributes.in_turn(7)[2:]
    assert images.equal(model.sample(labels=rows, seed=1, start=2))
    assert not images.allclose(model.sample(labels=rows + 1, seed=1, start=2))
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    loaded = load(tmp_path / "x.ckpt")
    assert loaded.attributes == data.attributes
    assert loaded.sample(5, seed=1, start=2).equal(images)
    assert trainer.predict(model, data)[0].shape == (4, *SHAPE)


def test_classes_leave_no_attributes(make_trainer):
    model = with_attributes(tiny(ConditionalGAN, num_classes=3))
    make_trainer(max_steps=1).fit(model, Toys())
    assert model.attributes is None


def test_one_hot_vectors_are_classes():
    model = tiny(ConditionalGAN)
    labels = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        model.sample(labels=F.one_hot(labels, 3).float(), seed=0), model.sample(labels=labels, seed=0)
    )


def test_loaders_of_vectors_need_no_attributes(make_trainer):
    model = tiny(ConditionalGAN, num_classes=5)
    batches = [(images, torch.rand(8, 5)) for images, _ in make_batches(2)]
    make_trainer(max_steps=2).fit(model, loader(batches))
    assert model.attributes is None
    assert model.sample(6, seed=0).equal(model.sample(labels=[0, 1, 2, 3, 4, 0], seed=0))


@pytest.mark.parametrize(
    ("labels", "kind", "setting"),
    [
        (torch.rand(8, 4), SettingError, "num_classes"),
        (torch.full((8, 3), torch.nan), DataError, "batch"),
        (torch.rand(7, 3), DataError, "batch"),
    ],
)
def test_wrong_vectors_of_batches(labels, kind, setting):
    images, _ = make_batches(1)[0]
    with pytest.raises(kind) as error:
        tiny(ConditionalGAN).images_and_labels((images, labels))
    assert error.value.setting == setting


@pytest.mark.parametrize("labels", [torch.rand(2, 3), torch.rand(3, 2), torch.full((2, 2), torch.inf)])
def test_wrong_vectors_of_samples(labels):
    with pytest.raises(SettingError) as error:
        with_attributes(MODELS["mlp"]()).sample(2, labels=labels)
    assert error.value.setting == "labels"


def test_fractions_are_no_classes():
    model = with_attributes(MODELS["mlp"]())
    assert model.sample(labels=[1.0, 0.0], seed=0).equal(model.sample(labels=[1, 0], seed=0))
    for labels in ([0.5, 1.0], [0.0, math.nan]):
        with pytest.raises(SettingError) as error:
            model.sample(labels=labels)
        assert error.value.setting == "labels"


def test_other_attributes_are_left_alone(make_trainer):
    class Data(pl.LightningDataModule):
        attributes = ("smiling", "young")

        def train_dataloader(self):
            return loader(make_batches(1))

    model = tiny(ConditionalGAN)
    make_trainer(max_steps=1, callbacks=[SampleGrid()]).fit(model, Data())
    assert model.attributes is None
    model.attributes = Data.attributes
    assert labels_in_turn(model, 4).tolist() == [0, 1, 2, 0]


def test_wrong_labels_are_those_of_other_images_whatever_the_number_of_processes():
    (mismatch,) = mismatched_labels(0.5, "nonsaturating", num_classes=2)
    labels = torch.rand(12, 2)
    one = mismatch.wrong(labels, lone_step(global_step=1, attributes=ATTRIBUTES))
    assert one.equal(ATTRIBUTES.in_turn(12, 1))
    parts = [
        mismatch.wrong(part, lone_step(world_size=2, rank=rank, global_step=1, attributes=ATTRIBUTES))
        for rank, part in enumerate(labels.split(6))
    ]
    assert torch.cat(parts).equal(one)


def test_the_auxiliary_classifier_has_a_binary_cross_entropy_for_each_attribute():
    model = MODELS["auxiliary"](auxiliary_weight=2.0).eval()
    real, fake = torch.randn(2, 6, *SHAPE)
    labels = torch.rand(6, 2)
    with model.turn("discriminator", lone_step(of=model), real, fake, labels) as turn:
        found = turn.regularized(model.discriminator_loss(turn.real, turn.fake, labels))
    (on_real, real_classes), (on_fake, fake_classes) = (model.discriminator(images, labels) for images in (real, fake))
    wanted = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
    for logits in (real_classes, fake_classes):
        wanted = wanted + 2 * (F.softplus(logits) - labels * logits).mean()
    torch.testing.assert_close(found, wanted)


def test_latent_tools_take_vectors():
    model = with_attributes(MODELS["conv"]())
    images = walk(model, [1, 2], torch.tensor(ROWS[:2]), frames=3)
    assert images.shape == (4, *SHAPE)
    torch.testing.assert_close(images[0], model.sample(labels=torch.tensor(ROWS[:1]), seed=1)[0])
    torch.testing.assert_close(images[3], model.sample(labels=torch.tensor(ROWS[1:2]), seed=2)[0])
    found = invert(model, images[:2], torch.tensor(ROWS[:2]), steps=1, starts=2, extractor=None)
    assert found.latents.shape == (2, 4)


def test_scores_draw_the_labels_of_training_images_in_turn():
    model = with_attributes(MODELS["mlp"]())
    assert labels_in_turn(model, 4, 1).tolist() == [list(ROWS[row]) for row in (1, 2, 0, 1)]
    assert draw(model, 4, seed=3, start=1).equal(model.sample(labels=ATTRIBUTES.in_turn(4, 1), seed=3, start=1))


def test_a_grid_has_a_row_for_each_value(make_trainer, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "lightning_gans.callbacks.grids.grid", lambda images, **options: seen.update(options, images=images)
    )
    monkeypatch.setattr("lightning_gans.callbacks.grids.save_png", lambda *_: None)
    model = MODELS["mlp"]()
    grids = SampleGrid()
    make_trainer(max_steps=1, callbacks=[grids]).fit(model, VectorToys())
    examples = model.attributes.examples(10)
    assert seen["row_labels"] == [*examples]
    assert seen["images"].equal(torch.cat([draw(model, 10, labels=labels, seed=0) for labels in examples.values()]))


def test_the_bound_of_several_latents_takes_vectors():
    model, images, labels = tiny(VAE, num_classes=2), make_batches(1, 4)[0][0], torch.rand(4, 2)
    alone = [model.bound(images[k : k + 1], 3, labels[k : k + 1]) for k in range(4)]
    torch.testing.assert_close(model.bound(images, 3, labels), torch.cat(alone))


def test_by_default_a_traversal_has_the_attributes_of_a_training_image():
    model = with_attributes(MODELS["conv"]())
    middle = traverse(model, [0], torch.zeros(4), steps=3)[0, 1]
    wanted = model.decode(torch.zeros(1, 4), torch.tensor(ROWS[:1]))
    torch.testing.assert_close(middle, wanted[0].detach(), atol=1e-5, rtol=1e-5)
