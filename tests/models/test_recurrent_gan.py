import numpy as np
import pytest
import torch

from lightning_gans import RecurrentGAN, SettingError, load
from lightning_gans.callbacks import GenerativeMetrics, Reconstructions, SampleGrid
from lightning_gans.cli.main import main
from tests.toys import loader, make_batches

SEQUENCE = (2, 6)
SETTINGS = ["--model", "RecurrentGAN", "--model.hidden_dim", "4", "--model.image_shape", "[1,12]"]
DATA = ["--data", "SinesDataModule", "--data.num_sequences", "48", "--data.num_test", "8", "--data.num_steps", "12"]
OFF = ["--samples.enabled", "false", "--metrics.enabled", "false"]


def small(shape=SEQUENCE, **options):
    return RecurrentGAN(shape, 4, **{"hidden_dim": 5, **options})


@pytest.mark.parametrize("shape", [SEQUENCE, (1, 4, 3)])
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_sequences_and_images_train(make_trainer, shape, num_classes, cell):
    model = small(shape, num_classes=num_classes, cell=cell)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    make_trainer().fit(model, loader(make_batches(2, shape=shape)))
    assert all(not weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert model.sample(3, seed=0).shape == (3, *shape)


@pytest.mark.parametrize("penalty", ["r1", "r2", "wgan_gp"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_penalties_train(make_trainer, cell, penalty):
    model = small(cell=cell, penalties={penalty: 1.0})
    make_trainer().fit(model, loader(make_batches(2, shape=SEQUENCE)))
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_a_sample_depends_on_its_place_alone():
    model = small(num_classes=3, num_layers=2)
    whole = model.sample(70, seed=3)
    for start, stop in ((0, 20), (20, 70), (49, 51)):
        assert model.sample(stop - start, seed=3, start=start).equal(
            model.sample(stop - start, (torch.arange(start, stop) % 3).tolist(), seed=3, start=start)
        )
        assert whole[start:stop].equal(model.sample(stop - start, seed=3, start=start))


def test_the_label_enters_both_networks():
    model = small(num_classes=3)
    first, second = (model.sample(labels=[label] * 2, seed=0) for label in (0, 1))
    assert not first.equal(second)
    zeros = torch.zeros(2, dtype=torch.long)
    assert not model.logits(first, zeros).equal(model.logits(first, zeros + 1))


@pytest.mark.parametrize("shape", [(6,), (1, 0), (1, 2, 3, 4)])
def test_shapes_of_neither_are_invalid(shape):
    with pytest.raises(SettingError) as error:
        small(shape)
    assert (error.value.setting, error.value.value) == ("image_shape", shape)


def test_data_of_another_length_is_invalid(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(small(), loader(make_batches(1, shape=(2, 5))))
    assert (error.value.setting, error.value.allowed) == ("image_shape", (2, 5))


@pytest.mark.parametrize(
    ("callback", "setting"), [(SampleGrid(), "samples.enabled"), (GenerativeMetrics(), "metrics.enabled")]
)
def test_callbacks_for_images_refuse_sequences_in_one_sentence(make_trainer, callback, setting):
    with pytest.raises(SettingError, match=rf"image_shape is \[2, 6\]: set {setting}: false") as told:
        make_trainer(callbacks=[callback]).fit(small(), loader(make_batches(1, shape=SEQUENCE)))
    assert "\n" not in str(told.value)


def test_reconstructions_refuse_sequences_of_a_model_that_has_them(make_trainer):
    class Reconstructing(RecurrentGAN):
        def reconstruct(self, images, labels=None):
            return images

    make_trainer(callbacks=[Reconstructions()]).fit(small(), loader(make_batches(1, shape=SEQUENCE)))
    with pytest.raises(SettingError, match=r"Reconstructions needs images.*set reconstructions.enabled: false"):
        make_trainer(callbacks=[Reconstructions()]).fit(
            Reconstructing(SEQUENCE, 4, hidden_dim=5), loader(make_batches(1, shape=SEQUENCE))
        )


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*SETTINGS, *DATA, "--data.batch_size", "8", "--trainer.max_steps", "3", "--trainer.accelerator", "cpu"]
    words += ["--model.num_classes", "2", "--data.num_classes", "2", "--checkpoint.monitor", "val/fid"]
    with pytest.raises(SystemExit):
        main(["fit", *words])
    assert "image_shape is [1, 12]: set metrics.enabled: false" in capsys.readouterr().err
    main(["fit", *words, *OFF])
    (last,) = tmp_path.rglob("last.ckpt")
    assert "3 updates" in capsys.readouterr().out
    main(["sample", str(last), "--num_samples", "5", "--seed", "1", "--output", "s.npz"])
    with np.load("s.npz") as arrays:
        assert arrays["sequences"].dtype == np.float32
        assert torch.from_numpy(arrays["sequences"]).equal(load(last).sample(5, seed=1))
        assert arrays["labels"].tolist() == [0, 1, 0, 1, 0]
    for output in ("s.png", "folder"):
        with pytest.raises(SystemExit):
            main(["sample", str(last), "--output", output])
        assert "as the samples are sequences" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fit", *SETTINGS, *DATA, *OFF, "--data.num_steps", "13"])
    assert "model.image_shape is [1, 12], but the images of SinesDataModule are [1, 13]" in capsys.readouterr().err
