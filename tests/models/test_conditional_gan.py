import pytest
import torch
import torch.nn.functional as F

from lightning_gans import ConditionalGAN, RecurrentGAN, SettingError
from lightning_gans.training.regularizers import mismatched_labels
from tests.toys import NUM_CLASSES, SHAPE, loader, lone_step, make_batches, tiny


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


def test_predict_samples_the_labels_of_the_batch(make_trainer):
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
def test_settings_out_of_range_are_invalid(architecture, setting, value):
    with pytest.raises(SettingError) as error:
        tiny(ConditionalGAN, **{"architecture": architecture, setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_settings_of_the_other_architecture_are_ignored():
    model = tiny(ConditionalGAN, width=16, dense_dims=[3], generator_conditioning="batch_norm")
    assert model.sample(labels=[0], seed=0).shape == (1, *SHAPE)
    tiny(ConditionalGAN, architecture="conv", width=4, generator_dims=[5], dropout=0.5)


def total_loss(model, real, fake, labels, **place):
    """Return the discriminator's loss with its regularizers, in one process of several."""
    with model.turn("discriminator", lone_step(of=model, **place), real, fake, labels) as turn:
        return turn.regularized(model.discriminator_loss(turn.real, turn.fake, labels))


def test_mismatch_weight_divides_the_loss_between_fakes_and_wrong_labels():
    model = ConditionalGAN(generator_dims=[8], discriminator_dims=[8], mismatch_weight=0.25).eval()
    real, fake = torch.randn(2, 6, 1, 28, 28)
    labels = torch.tensor([0, 1, 2, 9, 9, 5])
    wrong = (labels + 1 + (2 * 6 + 3 + torch.arange(6)) % 9) % 10
    assert not (wrong == labels).any()
    on_real, on_fake, on_wrong = (
        model.discriminator(images, given) for images, given in ((real, labels), (fake, labels), (real, wrong))
    )
    expected = F.softplus(-on_real).mean() + 0.75 * F.softplus(on_fake).mean() + 0.25 * F.softplus(on_wrong).mean()
    found = total_loss(model, real, fake, labels, world_size=3, rank=2, global_step=3)
    torch.testing.assert_close(found, expected)


def test_wrong_labels_take_turns_and_do_not_depend_on_the_number_of_processes():
    labels = torch.arange(12) % 4
    (mismatch,) = mismatched_labels(0.5, "nonsaturating", num_classes=4)
    one = mismatch.wrong(labels, lone_step(global_step=1))
    parts = [
        mismatch.wrong(part, lone_step(world_size=2, rank=rank, global_step=1))
        for rank, part in enumerate(labels.split(6))
    ]
    assert torch.cat(parts).equal(one)
    for label in range(4):
        assert set(one[labels == label].tolist()) == set(range(4)) - {label}


@pytest.mark.parametrize("weight", [-0.1, 1.0])
def test_a_mismatch_weight_is_a_fraction(weight):
    with pytest.raises(SettingError) as error:
        ConditionalGAN(mismatch_weight=weight)
    assert (error.value.setting, error.value.value) == ("mismatch_weight", weight)


def test_a_mismatch_weight_needs_two_classes_or_attributes():
    (mismatch,) = mismatched_labels(0.5, "nonsaturating", num_classes=1)
    for labels in (torch.zeros(4, dtype=torch.long), torch.zeros(4, 1)):
        with pytest.raises(SettingError) as error:
            mismatch.wrong(labels, lone_step())
        assert error.value.setting == "mismatch_weight"


def test_mismatch_weight_has_an_effect_only_with_labels():
    def loss(num_classes, weight):
        torch.manual_seed(0)
        model = RecurrentGAN((1, 8), 4, num_classes, hidden_dim=8, mismatch_weight=weight)
        real, fake = torch.randn(2, 6, 1, 8)
        return total_loss(model, real, fake, torch.arange(6) % 3 if num_classes else None)

    assert loss(3, 0.5) != loss(3, 0.0)
    assert loss(0, 0.5) == loss(0, 0.0)
