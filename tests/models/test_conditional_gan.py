import pytest
import torch

from lightning_gans import ConditionalGAN, SettingError
from tests.toys import NUM_CLASSES, loader, make_batches, tiny


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
    [("num_classes", 0), ("architecture", "resnet"), ("latent_dim", -1), ("image_shape", (8, 8))],
)
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_settings_out_of_range_are_refused(architecture, setting, value):
    with pytest.raises(SettingError, match=setting):
        tiny(ConditionalGAN, **{"architecture": architecture, setting: value})
