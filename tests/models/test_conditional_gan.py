from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lightning_gans import ConditionalGAN, RecurrentGAN, SettingError
from tests.toys import NUM_CLASSES, SHAPE, loader, make_batches, tiny


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_the_label_enters_both_networks(architecture):
    model = tiny(ConditionalGAN, architecture=architecture, width=4).eval()
    first, second = (model.sample(labels=[label] * 3, seed=0) for label in (0, 1))
    assert not first.equal(second)
    images, _ = make_batches(1)[0]
    zeros = torch.zeros(8, dtype=torch.long)
    assert not model.logits(images, zeros).equal(model.logits(images, zeros + 1))


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_both_losses_see_the_labels_of_the_batch(make_trainer, architecture):
    seen = []

    class Watched(ConditionalGAN):
        def logits(self, images, labels):
            seen.append(labels)
            return super().logits(images, labels)

    batches = make_batches(1)
    model = tiny(Watched, architecture=architecture, width=4)
    make_trainer().fit(model, loader(batches))
    assert len(seen) == 3
    assert all(labels.equal(batches[0][1]) for labels in seen)


def test_prediction_gives_samples_of_the_batchs_labels(make_trainer):
    model, batches = tiny(ConditionalGAN), make_batches(2)
    first, second = make_trainer().predict(model, loader(batches))
    again, _ = make_trainer().predict(model, loader(batches))
    assert first.shape == (8, 1, 8, 8)
    assert first.equal(again)
    assert not first.equal(second)
    changed = [(images, (labels + 1) % NUM_CLASSES) for images, labels in batches]
    others, _ = make_trainer().predict(model, loader(changed))
    assert not first.equal(others)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_classes", 0),
        ("architecture", "resnet"),
        ("latent_dim", -1),
        ("image_shape", (8, 8)),
        ("generator_dims", [0]),
        ("discriminator_dims", []),
        ("dropout", 1.5),
        ("width", 0),
        ("dense_dims", [0, 8]),
        ("generator_conditioning", "nonsense"),
    ],
)
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_settings_out_of_range_are_refused(architecture, setting, value):
    with pytest.raises(SettingError, match=f"^{setting} is "):
        tiny(ConditionalGAN, **{"architecture": architecture, setting: value})


def test_settings_of_the_other_architecture_are_let_be():
    model = tiny(ConditionalGAN, width=16, dense_dims=[3], generator_conditioning="batch_norm")
    assert model.sample(labels=[0], seed=0).shape == (1, *SHAPE)
    tiny(ConditionalGAN, architecture="conv", width=4, generator_dims=[5], dropout=0.5)


def test_mismatch_weight_divides_the_loss_between_fakes_and_wrong_labels(monkeypatch):
    model = ConditionalGAN(generator_dims=[8], discriminator_dims=[8], mismatch_weight=0.25).eval()
    monkeypatch.setattr(type(model), "trainer", SimpleNamespace(global_step=3, world_size=3))
    monkeypatch.setattr(type(model), "global_rank", 2)
    real, fake = torch.randn(2, 6, 1, 28, 28)
    labels = torch.tensor([0, 1, 2, 9, 9, 5])
    wrong = model._wrong(labels)
    assert wrong.tolist() == [(label + 1 + (2 * 6 + 3 + k) % 9) % 10 for k, label in enumerate(labels.tolist())]
    assert not (wrong == labels).any()
    on_real, on_fake, on_wrong = (
        model.discriminator(images, given) for images, given in ((real, labels), (fake, labels), (real, wrong))
    )
    expected = F.softplus(-on_real).mean() + 0.75 * F.softplus(on_fake).mean() + 0.25 * F.softplus(on_wrong).mean()
    torch.testing.assert_close(model.discriminator_loss(real, fake, labels), expected)


def test_wrong_labels_are_all_others_in_turn_and_the_same_on_any_number_of_processes(monkeypatch):
    model = ConditionalGAN(num_classes=4, generator_dims=[8], discriminator_dims=[8], mismatch_weight=0.5)
    monkeypatch.setattr(type(model), "trainer", SimpleNamespace(global_step=1, world_size=2))
    labels = torch.arange(12) % 4
    monkeypatch.setattr(type(model), "global_rank", 0)
    one = model._wrong(labels)
    first = model._wrong(labels[:6])
    monkeypatch.setattr(type(model), "global_rank", 1)
    assert torch.cat([first, model._wrong(labels[6:])]).equal(one)
    for label in range(4):
        assert set(one[labels == label].tolist()) == set(range(4)) - {label}


@pytest.mark.parametrize("weight", [-0.1, 1.0])
def test_a_mismatch_weight_out_of_range_is_named(weight):
    with pytest.raises(SettingError, match="mismatch_weight"):
        ConditionalGAN(mismatch_weight=weight)


def test_a_single_class_has_no_wrong_labels():
    with pytest.raises(SettingError, match="needs two classes"):
        ConditionalGAN(num_classes=1, mismatch_weight=0.5)


def test_the_mismatch_weight_counts_in_every_model_with_labels_and_in_none_without(monkeypatch):
    def loss(num_classes, weight):
        torch.manual_seed(0)
        model = RecurrentGAN((1, 8), 4, num_classes, hidden_dim=8, mismatch_weight=weight)
        monkeypatch.setattr(type(model), "trainer", SimpleNamespace(global_step=0, world_size=1))
        monkeypatch.setattr(type(model), "global_rank", 0)
        torch.manual_seed(1)
        real, fake = torch.randn(6, 1, 8), torch.randn(6, 1, 8)
        return model.discriminator_loss(real, fake, torch.arange(6) % 3 if num_classes else None)

    assert loss(3, 0.5) != loss(3, 0.0)
    assert loss(0, 0.5) == loss(0, 0.0)
