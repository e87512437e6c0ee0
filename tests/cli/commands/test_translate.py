"""Translations of files, folders and archives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_gans import DCGAN, CycleGAN, Pix2Pix, load
from lightning_gans.cli.main import main
from lightning_gans.errors import LightningGansError
from lightning_gans.io.arrays import Scale, write_values
from lightning_gans.io.pictures import from_bytes, opened_picture, to_array, to_uint8
from lightning_gans.training import checkpoint_format
from tests.toys import quiet_trainer

MODELS = {
    "pix2pix": lambda: Pix2Pix((3, 16, 16), (1, 16, 16), width=4, num_layers=1),
    "cycle_gan": lambda: CycleGAN((1, 16, 16), width=4, num_blocks=1, num_layers=1, pool_size=0),
    "dcgan": lambda: DCGAN((1, 8, 8), 4, width=4),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Files of all of :data:`MODELS` by their names."""
    folder, trainer = tmp_path_factory.mktemp("checkpoints"), quiet_trainer(None)
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make()
        for weight in model.parameters():  # the averages differ
            weight.data += 0.1 * torch.randn_like(weight)
        trainer.strategy.connect(model)
        model.trainer = trainer
        trainer.save_checkpoint(folder / f"{name}.ckpt", weights_only=True)
    return {name: str(folder / f"{name}.ckpt") for name in MODELS}


def fails(words):
    """Return the error of a command."""
    with pytest.raises(LightningGansError) as error:
        main([*words, "--traceback"])
    return error.value


def paint(path, size, seed):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return from_bytes(torch.from_numpy(pixels)[None, None])


def read(path):
    return torch.from_numpy(np.array(Image.open(path)))


def test_a_folder_keeps_its_names_and_each_picture_its_size(checkpoints, workplace):
    model = load(checkpoints["pix2pix"])
    given = {"a": paint(workplace / "in" / "a.png", (16, 16), 0), "b": paint(workplace / "in" / "b.bmp", (48, 32), 1)}
    main(["translate", checkpoints["pix2pix"], "in", "--output", "out"])
    assert sorted(path.name for path in (workplace / "out").iterdir()) == ["a.png", "b.png"]
    for name, images in given.items():
        made = read(workplace / "out" / f"{name}.png")
        assert made.shape == (*images.shape[2:], 3)
        assert made.equal(to_uint8(model.translate(images))[0])


def test_one_picture_and_the_other_way(checkpoints, workplace):
    model, images = load(checkpoints["cycle_gan"]), paint(workplace / "a.png", (24, 16), 0)
    for words, options in (([], {}), (["--to", "source"], {"to": "source"}), (["--no_ema"], {"ema": False})):
        main(["translate", checkpoints["cycle_gan"], "a.png", "--output", "b.png", *words])
        assert read(workplace / "b.png").equal(to_uint8(model.translate(images, **options))[0, :, :, 0])


def test_an_archive(checkpoints, workplace):
    images = torch.randint(256, (60, 1, 16, 32), dtype=torch.uint8)
    np.savez(workplace / "in.npz", images=images.permute(0, 2, 3, 1).numpy())
    main(["translate", checkpoints["pix2pix"], "in.npz", "--output", "out.npz"])
    made = torch.from_numpy(np.load(workplace / "out.npz")["images"])
    assert made.shape == (60, 16, 32, 3)
    assert made.equal(to_uint8(load(checkpoints["pix2pix"]).translate(from_bytes(images))))


MODEL = ["--model=Pix2Pix", "--model.image_shape=[1,28,28]", "--model.width=4", "--model.num_layers=1"]
RUN = [*MODEL, "--data=DigitsDataModule", "--data.task=denoise", "--metrics.metrics=[fid,psnr]"]
LIMITS = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
SHORT = [*LIMITS, "--checkpoint.monitor=val/psnr", "--checkpoint.mode=max"]


def test_a_run_is_scored_and_shown_and_its_summary_names_the_command(workplace, capsys):
    main(["fit", *RUN, *SHORT, "--neighbors.enabled=true"])
    (run,) = (workplace / "runs").glob("*/version_0")
    assert {path.stem for path in (run / "samples").iterdir()} == {"step=0000000", "step=0000002"}
    assert (run / "checkpoints" / "best.ckpt").is_file()
    (command,) = (line.split()[1:] for line in capsys.readouterr().out.splitlines() if " translate " in line)
    np.savez(workplace / "pictures.npz", images=np.zeros((3, 28, 28, 1), np.uint8))
    main([{"pictures": "pictures.npz", "translated": "out.npz"}.get(word, word) for word in command])
    assert np.load(workplace / "out.npz")["images"].shape == (3, 28, 28, 1)


def test_pairs_that_are_not_those_of_the_model_are_named_before_anything_is_written(workplace, capsys):
    for side in ("a", "b"):
        for k in range(4):
            paint(workplace / side / f"{k}.png", (16, 16), k)
    data = ["--data=PairedFolderDataModule", "--data.data_dir=a", "--data.target_dir=b", "--data.image_size=16"]
    words = [
        "fit",
        "--model=Pix2Pix",
        "--model.width=4",
        "--model.num_layers=1",
        *data,
        "--data.channels=1",
        "--data.val_size=1",
    ]
    for shape, setting in (("[1,16,16]", "model.source_shape"), ("[1,32,32]", "model.image_shape")):
        error = fails([*words, f"--model.image_shape={shape}", "--data.source_channels=3"])
        assert error.setting == setting
    with pytest.raises(SystemExit):
        main([*words, "--model.image_shape=[1,15,16]"])
    assert "must be multiples of 2, as a U-Net halves them" in capsys.readouterr().err
    (workplace / "b" / "0.png").rename(workplace / "b" / "other.png")
    assert fails([*words, "--model.image_shape=[1,16,16]"]).setting == str(workplace / "b")
    assert not (workplace / "runs").exists()


@pytest.mark.slow
def test_a_checkpoint_is_validated_and_tested_but_not_sampled(workplace, capsys):
    main(["fit", *RUN, *SHORT])
    (checkpoint,) = (workplace / "runs").glob("*/version_0/checkpoints/last.ckpt")
    for stage, sources in (("validate", "val"), ("test", "test")):
        capsys.readouterr()
        main([stage, *RUN, f"--ckpt_path={checkpoint}"])
        printed = capsys.readouterr().out
        assert "psnr" in printed and f"translations of the {sources} split's sources" in printed
    assert fails(["fit", *RUN, *SHORT, "--model.source_shape=[2,28,28]"]).setting == "source_shape"
    assert fails(["sample", str(checkpoint), "--output", "s.png"]).setting == "latent_dim"


@pytest.mark.parametrize(
    ("model", "words", "setting"),
    [
        ("dcgan", ["in", "--output", "out"], "checkpoint"),
        ("pix2pix", ["in", "--output", "out", "--to", "source"], "--to"),
        ("pix2pix", ["in", "--output", "out.png"], "--output"),
        ("pix2pix", ["odd.png", "--output", "out.png"], "image_shape"),
        ("pix2pix", ["twice", "--output", "out"], "a"),
        ("pix2pix", ["absent", "--output", "out"], "absent"),
        ("pix2pix", ["in/a.png", "--output", "in/../in/a.png"], "--output"),
        ("pix2pix", ["nothing.npz", "--output", "out"], "nothing.npz"),
        ("pix2pix", ["complex.npz", "--output", "out"], "complex.npz"),
    ],
)
def test_what_cannot_be_translated_is_named_and_nothing_is_written(checkpoints, workplace, model, words, setting):
    for path in ("in/a.png", "in/b.png", "twice/a.png", "twice/a.bmp"):
        paint(workplace / path, (16, 16), 0)
    paint(workplace / "odd.png", (16, 17), 0)
    np.savez(workplace / "nothing.npz", images=np.zeros((0, 16, 16, 1), np.uint8))
    np.savez(workplace / "complex.npz", images=np.zeros((2, 16, 16, 1), np.complex64))
    error = fails(["translate", checkpoints[model], *words])
    assert error.setting == setting
    assert setting != "image_shape" or str(error).startswith("odd.png: ")
    assert not list(workplace.glob("out*"))


@pytest.mark.parametrize("command", ["walk", "traverse", "interpolate", "invert", "demo", "reconstruct"])
def test_commands_on_samples_reject_a_translator(checkpoints, workplace, command, monkeypatch):
    monkeypatch.setattr("lightning_gans.cli.commands.demo._gradio", lambda: None)
    paint(workplace / "a.png", (16, 16), 0)
    words = {"invert": ["a.png"], "reconstruct": ["a.png"]}.get(command, [])
    output = [] if command == "demo" else ["--output", "out.png"]
    assert fails([command, checkpoints["pix2pix"], *words, *output]).setting == "latent_dim"


# --- values of their own --------------------------------------------------------------------------------------------


def save(model, path):
    """Write a checkpoint of a model that was never trained, with all that a fit would write."""
    trainer = quiet_trainer(None, max_epochs=0)
    trainer.strategy.connect(model)
    model.trainer = trainer
    checkpoint = {"state_dict": model.state_dict(), "global_step": 0, "pytorch-lightning_version": "2.6.6"}
    checkpoint_format.describe(model, checkpoint)
    torch.save(checkpoint, path)
    return str(path)


def identity(path, channels, scale, size=(96, 160)):
    """Write a checkpoint of a model that returns its sources."""
    model = Pix2Pix((channels, *size), generator=nn.Identity(), width=2, num_layers=1)
    model.note_arguments(generator={"class_path": "torch.nn.Identity"})
    model.source_scale = model.image_scale = scale
    return save(model, path)


def random_values(dtype, *shape):
    random = np.random.default_rng(0)
    if dtype == "float32":
        return random.normal(300, 40, shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def read_values(path, channels):
    with opened_picture(path, channels=channels, own_values=True) as picture:
        return to_array(picture, (channels, picture.height, picture.width))


@pytest.mark.parametrize(
    ("kind", "dtype", "channels", "made"),
    [
        ("png", "uint8", 3, "png"),
        ("tif", "uint8", 3, "png"),
        ("png", "uint16", 1, "png"),
        ("png", "uint16", 3, "png"),
        ("tif", "uint16", 1, "tif"),
        ("tif", "uint16", 5, "tif"),
        ("tif", "float32", 1, "tif"),
        ("npy", "float32", 5, "npy"),
        ("npy", "uint16", 2, "npy"),
    ],
)
@pytest.mark.parametrize("words", [[], ["--tile", "64", "--overlap", "16"]])
def test_the_identity_returns_files_of_the_same_kind_and_values(workplace, kind, dtype, channels, made, words):
    values = random_values(dtype, channels, 96, 160)
    (workplace / "in" / "deeper").mkdir(parents=True)
    with open(workplace / "in" / "deeper" / f"a.{kind}", "wb") as file:
        write_values(values, file, f".{kind}", axis=2)
    scale = Scale(100, 500, "float32") if dtype == "float32" else Scale.of_type(dtype)
    checkpoint = identity(workplace / "model.ckpt", channels, scale)
    main(["translate", checkpoint, "in", "--output", "out", *words])
    (path,) = (path for path in (workplace / "out").rglob("*") if path.is_file())
    assert path.relative_to(workplace / "out") == Path("deeper", f"a.{made}")
    found = read_values(path, channels)
    assert found.dtype == dtype
    values = values.clip(scale.low, scale.high)
    assert np.abs(found.astype(float) - values.astype(float)).max() <= (scale.high - scale.low) / 65535
    if kind == "npy":
        assert np.load(path).shape == (96, 160, channels)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_an_array_of_images_keeps_its_values(workplace, suffix, layout):
    values = random_values("float32", 60, 5, 96, 160)
    given = values.transpose(0, 2, 3, 1) if layout == "NHWC" else values
    np.savez("in.npz", images=given) if suffix == "npz" else np.save("in.npy", given)
    checkpoint = identity(workplace / "model.ckpt", 5, Scale(0, 600, "float32"))
    main(["translate", checkpoint, f"in.{suffix}", "--output", "out.npz"])
    found = np.load("out.npz")["images"]
    assert found.dtype == np.float32 and found.shape == (60, 96, 160, 5)
    assert np.abs(found.transpose(0, 3, 1, 2) - values).max() < 600 / 65535


def test_a_single_array_is_one_image(workplace):
    values = random_values("uint16", 5, 96, 160)
    np.save("in.npy", values)
    checkpoint = identity(workplace / "model.ckpt", 5, Scale(0, 4000, "uint16"))
    for name in ("out.npy", "out.tif"):
        main(["translate", checkpoint, "in.npy", "--output", name])
        assert (read_values(workplace / name, 5) == values.clip(0, 4000)).all()
    assert np.load("out.npy").shape == (5, 96, 160)
    assert fails(["translate", checkpoint, "in.npy", "--output", "out.png"]).setting == "--output"


def test_values_of_another_type_are_scaled_by_their_type(workplace):
    checkpoint = identity(workplace / "model.ckpt", 1, Scale(100, 500, "float32"))
    values = random_values("uint16", 1, 96, 160)
    with open("in.png", "wb") as file:
        write_values(values, file, ".png")
    main(["translate", checkpoint, "in.png", "--output", "out.png"])
    assert (read_values(workplace / "out.png", 1) == values).all()
    np.save("in.npy", np.full((96, 160), 300.0))  # float64
    error = fails(["translate", checkpoint, "in.npy", "--output", "out.npy"])
    assert error.setting == "in.npy" and "float64" in str(error) and "float32" in str(error)
    np.save("in.npy", np.full((96, 160), np.nan, np.float32))
    assert fails(["translate", checkpoint, "in.npy", "--output", "out.npy"]).setting == "in.npy"


def test_the_other_way_has_the_scales_of_the_other_side(workplace):
    model = CycleGAN((1, 16, 16), width=2, num_blocks=1, num_layers=1, pool_size=0)
    model.source_scale, model.image_scale = Scale(0, 9, "float32"), Scale(0, 4000, "uint16")
    checkpoint = save(model, workplace / "model.ckpt")
    for to, given, made in (("target", "float32", "uint16"), ("source", "uint16", "float32")):
        np.save("in.npy", np.ones((16, 16), given))
        main(["translate", checkpoint, "in.npy", "--output", "out.npy", "--to", to])
        assert np.load("out.npy").dtype == made


# --- tiles ----------------------------------------------------------------------------------------------------------


def test_tiles_are_the_whole_picture_where_they_do_not_overlap(workplace):
    model = Pix2Pix((3, 64, 64), generator=nn.Conv2d(3, 3, 9, padding=4), width=2, num_layers=1)
    given = {"in_channels": 3, "out_channels": 3, "kernel_size": 9, "padding": 4}
    model.note_arguments(generator={"class_path": "torch.nn.Conv2d", "init_args": given})
    checkpoint = save(model, workplace / "model.ckpt")
    images = paint_color(workplace / "in.png", (150, 100))
    whole = load(checkpoint).translate(images)
    main(["translate", checkpoint, "in.png", "--output", "out.png", "--tile", "40", "--overlap", "8"])
    found = read(workplace / "out.png").permute(2, 0, 1)
    differs = (found.int() - to_uint8(whole)[0].permute(2, 0, 1).int()).abs().amax(0) > 1
    # Rows and columns that two tiles share; the outermost tiles are moved inwards.
    shared = torch.zeros(100, 150, dtype=torch.bool)
    shared[32:40] = shared[60:72] = True
    shared[:, 32:40] = shared[:, 64:72] = shared[:, 96:104] = shared[:, 110:136] = True
    assert differs.any() and not differs[~shared].any()


def paint_color(path, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return from_bytes(torch.from_numpy(pixels).permute(2, 0, 1)[None])


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["--overlap", "4"], "--overlap"),
        (["--tile", "0"], "tile"),
        (["--tile", "8", "--overlap", "8"], "overlap"),
        (["--tile", "8", "--overlap", "-1"], "overlap"),
        (["--tile", "7"], "image_shape"),  # the U-Net halves it
    ],
)
def test_settings_of_tiles(checkpoints, workplace, words, setting):
    paint(workplace / "a.png", (16, 16), 0)
    assert fails(["translate", checkpoints["pix2pix"], "a.png", "--output", "b.png", *words]).setting == setting
    assert not (workplace / "b.png").exists()


# --- holes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "dtype"), [("RGBA", "uint8"), ("LA", "uint8"), ("RGBA", "uint16")])
def test_transparent_pixels_are_holes(workplace, mode, dtype):
    channels, most = len(mode) - 1, np.iinfo(dtype).max
    model = Pix2Pix((channels, 16, 16), inpaint=True, width=4, num_layers=1)
    model.source_scale = model.image_scale = Scale.of_type(dtype)
    checkpoint = save(model, workplace / "model.ckpt")
    values = random_values(dtype, channels + 1, 32, 32)
    values[-1] = most
    values[-1, 5:20, 8:30] = 0
    with open("in.png", "wb") as file:
        write_values(values, file, ".png")
    main(["translate", checkpoint, "in.png", "--output", "out.png"])
    found = read_values(workplace / "out.png", channels)
    inside = values[-1] == 0
    assert found.dtype == dtype and (found[:, ~inside] == values[:-1, ~inside]).all()
    images = model.image_scale.normalize(torch.from_numpy(values[None, :-1].astype(np.float32)))
    hole = torch.from_numpy(inside)[None, None]
    source = torch.cat([images.masked_fill(hole, 0), hole * 2.0 - 1], 1)  # as the task makes it
    assert (found == model.image_scale.restore(load(checkpoint).translate(source))[0]).all()
    # An array has the mask itself.
    np.save("in.npy", np.concatenate([values[:-1], np.where(inside, most, 0).astype(dtype)[None]]))
    main(["translate", checkpoint, "in.npy", "--output", "again.png"])
    assert (read_values(workplace / "again.png", channels) == found).all()


def test_a_picture_without_holes_is_an_error(workplace):
    checkpoint = save(Pix2Pix((3, 16, 16), inpaint=True, width=4, num_layers=1), workplace / "model.ckpt")
    paint_color(workplace / "in.png", (16, 16))
    error = fails(["translate", checkpoint, "in.png", "--output", "out.png"])
    assert error.setting == "in.png" and "transparent" in str(error)
