"""The command line: commands, one-line errors, resume, warm start, and classes of the user's own."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import lightning_gans
from lightning_gans.cli import COMMANDS, main
from lightning_gans.commands import recipes
from lightning_gans.models import load

from .fake_sets import write_mnist

QUICK = ["fit", "-c", "quickstart", "-c", "fast", "--model", "DCGAN", "--model.width", "4"]
NETWORK = """
import torch
class Flat(torch.nn.Module):
    def __init__(self, latent_dim=16, gain=1.0):
        super().__init__()
        self.gain = gain
        self.linear = torch.nn.Linear(latent_dim, 784)
    def forward(self, noise):
        return (self.gain * self.linear(noise)).tanh().view(-1, 1, 28, 28)
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of an unconditional and of a conditional model."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(QUICK)
        main([*QUICK[:5], "--model.width", "4"])
    runs = folder / "runs" / "quickstart"
    return {
        "gan": str(runs / "version_0" / "checkpoints" / "last.ckpt"),
        "conditional": str(runs / "version_1" / "checkpoints" / "last.ckpt"),
    }


def fails(args, code, capsys):
    """Run a command that must fail; return what it says, in at most three lines."""
    with pytest.raises(SystemExit) as stopped:
        main(args)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == code, said
    ours = said[said.index("lightning-gans:") :]
    assert len(ours.splitlines()) <= 3 and "Traceback" not in said and "usage:" not in said, said
    return ours


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.latent_dimm", "3"], ["latent_dimm", "Did you mean 'latent_dim'?"]),
        (["--trainer.max_epoch", "3"], ["max_epoch", "Did you mean 'max_epochs'?"]),
        (["--samples.num_sample", "3"], ["num_sample", "Did you mean 'num_samples'?"]),
        (["--model.latent_dim", "0"], ["latent_dim is 0", "greater than 0"]),
        (["--model.image_shape", "[1,32,32]"], ["image_shape", "[1, 32, 32]", "[1, 28, 28]"]),
        (["--model.image_shape", "[1,27,27]"], ["image_shape", "(1, 27, 27)", "14, 28"]),
        (["--model.width", "wide"], ["width is 'wide'", "int"]),
        (["--trainer.max_epochs", "many"], ["trainer.max_epochs is 'many'", "int or null"]),
        (["--model.loss", "wgan"], ["loss is 'wgan'", "nonsaturating, minimax"]),
        (["--model", "DGAN"], ["model is 'DGAN'", "Did you mean 'DCGAN'?"]),
        (["--data", "MNIST"], ["data is 'MNIST'", "MNISTDataModule"]),
        (["--data.batch_size", "0"], ["batch_size is 0", "greater than 0"]),
        (["--data.batch_size", "5000"], ["batch_size", "5000"]),
        (["--checkpoint.every_n_epochs", "0"], ["checkpoint.every_n_epochs is 0"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(args, words, capsys):
    said = fails(["fit", "-c", "quickstart", *args], 2, capsys)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("latent_dim:", "latent_dimm:"), ["latent_dimm", "Did you mean 'latent_dim'?"]),
        (("trainer:", "trainr:"), ["trainr"]),
        (("max_epochs:", "max_epoch:"), ["max_epoch", "Did you mean 'max_epochs'?"]),
        (
            ("class_path: ConditionalGAN", "class_path: ConditionalGN"),
            ["'ConditionalGN'", "Did you mean 'ConditionalGAN'?"],
        ),
        (("latent_dim: ", "latent_dim: [3, "), ["typo.yaml"]),
    ],
)
def test_a_typo_in_a_recipe_is_named(change, words, workplace, capsys):
    text = (recipes.folder() / "quickstart.yaml").read_text()
    assert change[0] in text
    (workplace / "typo.yaml").write_text(text.replace(*change))
    said = fails(["fit", "-c", "typo.yaml"], 2, capsys)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("args", [["fit", "-c", "dcgan_mnst"], ["recipes", "dcgan_mnst"]])
def test_an_unknown_recipe_gets_the_list(args, capsys):
    said = fails(args, 2, capsys)
    assert "Did you mean 'dcgan_mnist'?" in said and all(name in said for name in recipes.names())


def test_an_unknown_command_gets_the_list(capsys):
    said = fails(["trian"], 2, capsys)
    assert all(name in said for name in COMMANDS)
    assert "Did you mean" in fails(["smaple"], 2, capsys)


def test_fit_without_a_recipe_says_how_to_begin(capsys):
    assert "fit -c quickstart" in fails(["fit"], 2, capsys)


def test_a_missing_data_folder_offline_is_an_error_about_data(monkeypatch, workplace, capsys):
    import urllib.error
    import urllib.request

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    said = fails(["fit", "-c", "gan_mnist", "--data.data_dir", "nowhere"], 1, capsys)
    assert "nowhere" in said and "train-images-idx3-ubyte" in said and "--data.data_dir" in said


def test_a_truncated_file_is_named(workplace, capsys):
    write_mnist(workplace / "data")
    file = workplace / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    assert str(file) in fails(["fit", "-c", "gan_mnist", "--data.data_dir", "data"], 1, capsys)


def test_wrong_labels_and_outputs_are_refused(trained, workplace, capsys):
    sample = ["sample", trained["gan"], "--num_samples", "2"]
    assert "unconditional" in fails([*sample, "--labels", "1", "--output", "a.png"], 2, capsys)
    conditional = ["sample", trained["conditional"]]
    said = fails([*conditional, "--labels", "3,10", "--output", "a.png"], 2, capsys)
    assert "10" in said and "0 to 9" in said
    assert "3,x" in fails([*conditional, "--labels", "3,x", "--output", "a.png"], 2, capsys)
    assert "'a.jpg'" in fails([*sample, "--output", "a.jpg"], 2, capsys)
    assert "num_samples is 0" in fails(["sample", trained["gan"], "--num_samples", "0", "--output", "a.png"], 2, capsys)
    assert "--ouput" in fails([*sample, "--output", "a.png", "--ouput", "b.png"], 2, capsys)
    (workplace / "file").write_text("")
    assert "file" in fails(["sample", "nosuch.ckpt", "--output", "file/deep/a.png"], 1, capsys)
    assert sorted(path.name for path in workplace.iterdir()) == ["file"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", None])
def test_a_file_that_is_no_checkpoint_is_refused(content, workplace, capsys):
    if content is not None:
        (workplace / "junk.ckpt").write_bytes(content)
    assert "junk.ckpt" in fails(["sample", "junk.ckpt", "--output", "a.png"], 1, capsys)
    assert not (workplace / "a.png").exists()


def test_predict_needs_something_to_predict(trained, capsys):
    args = ["predict", *QUICK[1:], "--ckpt_path", trained["gan"]]
    assert "lightning-gans sample" in fails(args, 2, capsys)


def test_traceback_shows_where_an_error_comes_from():
    with pytest.raises(lightning_gans.SettingError):
        main(["sample", "x.ckpt", "--output", "a.jpg", "--traceback"])


def test_errors_that_are_not_ours_keep_their_traceback(monkeypatch):
    def broken(self, *args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(lightning_gans.DCGAN, "training_step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(QUICK)


def test_samples_are_written_as_grid_archive_and_folder(trained, workplace):
    main(
        [
            "sample",
            trained["conditional"],
            "--labels",
            "3,1",
            "--num_samples",
            "5",
            "--seed",
            "1",
            "--output",
            "new/s.npz",
        ]
    )
    archive = np.load("new/s.npz")
    assert archive["labels"].tolist() == [3, 1, 3, 1, 3]
    main(
        [
            "sample",
            trained["conditional"],
            "--labels",
            "3,1",
            "--num_samples",
            "5",
            "--seed",
            "1",
            "--output",
            "folder",
        ]
    )
    files = sorted((workplace / "folder").iterdir())
    assert [file.name for file in files] == [f"00000{k}_{label}.png" for k, label in enumerate([3, 1, 3, 1, 3])]
    for file, image in zip(files, archive["images"], strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image[:, :, 0])
    main(["sample", trained["gan"], "--num_samples", "9", "--output", "s.png"])
    assert Image.open("s.png").size == (3 * 58 + 2, 3 * 58 + 2)


def test_a_seed_gives_the_same_samples_and_no_ema_gives_others(trained):
    def sample(*more):
        main(["sample", trained["gan"], "--num_samples", "4", "--output", "s.npz", *more])
        return np.load("s.npz")["images"]

    first = sample("--seed", "3")
    assert np.array_equal(first, sample("--seed", "3"))
    assert not np.array_equal(first, sample("--seed", "4"))
    assert not np.array_equal(first, sample("--seed", "3", "--no_ema"))


def test_fit_goes_on_from_a_checkpoint(trained, workplace):
    main([*QUICK, "--trainer.max_epochs", "2", "--ckpt_path", trained["gan"]])
    last = workplace / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 8
    assert load(last).images_seen == 8 * 64


def test_init_from_starts_from_the_weights_alone(trained, workplace):
    main(
        [
            *QUICK,
            "--init_from",
            trained["gan"],
            "--model.generator_lr",
            "1e-12",
            "--model.discriminator_lr",
            "1e-12",
        ]
    )
    last = workplace / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    before, after = load(trained["gan"]), load(last)
    for old, new in zip(before.generator.parameters(), after.generator.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-6, rtol=0)


def test_a_network_of_the_users_own_by_class_path(workplace, capsys):
    (workplace / "own_networks.py").write_text(NETWORK)
    main(
        [
            *QUICK,
            "--model.generator.class_path",
            "own_networks.Flat",
            "--model.generator.init_args.gain",
            "2.0",
        ]
    )
    last = workplace / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    model = load(last)
    assert type(model.generator).__name__ == "Flat" and model.generator.gain == 2.0
    command = [
        sys.executable,
        "-m",
        "lightning_gans",
        "sample",
        str(last),
        "--num_samples",
        "2",
        "--output",
        "s.png",
    ]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "--import own_networks" in refused.stderr
    subprocess.run([*command, "--import", "own_networks"], check=True)
    assert (workplace / "s.png").is_file()


def test_vae_predicts_reconstructions_and_conditional_models_sample_the_labels(workplace):
    for model in ("VAE", "ConditionalGAN"):
        main(["predict", "-c", "quickstart", "-c", "fast", "--model", model])
    for version in (0, 1):
        run = workplace / "runs" / "quickstart" / f"version_{version}"
        images = np.load(run / "predictions.npz")["images"]
        assert images.shape == (128, 28, 28, 1) and images.dtype == np.uint8
        assert (run / "predictions.png").is_file()


def test_disabled_callbacks_leave_nothing(workplace, capsys):
    main(
        [
            *QUICK,
            "--checkpoint.enabled",
            "false",
            "--samples.enabled",
            "false",
            "--metrics.enabled",
            "false",
            "--trainer.enable_progress_bar",
            "false",
        ]
    )
    assert {path.name for path in (workplace / "runs" / "quickstart" / "version_0").iterdir()} == {
        "config.yaml", "hparams.yaml", "metrics.csv"
    }  # fmt: skip


def test_metrics_are_on_the_axis_of_generator_updates(workplace):
    main([*QUICK, "--model.d_steps", "2"])
    with open(workplace / "runs" / "quickstart" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    *training, validation = rows
    assert [int(row["step"]) for row in training] == [1, 2, 3, 4]
    assert all(float(row[f"train/{key}"]) for row in training for key in ("d_loss", "g_loss", "d_real", "d_fake"))
    assert int(validation["step"]) == 4 and float(validation["val/fid"]) > 0


def test_help_lists_the_commands_and_version_says_which(capsys):
    main([])
    main(["--help"])
    main(["--version"])
    out = capsys.readouterr().out
    assert all(out.count(f"  {name} ") == 2 for name in COMMANDS)
    assert out.endswith(f"lightning_gans {lightning_gans.__version__}\n")
