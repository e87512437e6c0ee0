"""Samples, interpolations and reconstructions from checkpoints."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import load
from lightning_gans.cli import outputs
from lightning_gans.cli.main import main
from lightning_gans.errors import SettingError
from lightning_gans.io.files import replacing_folder
from lightning_gans.io.pictures import to_uint8
from lightning_gans.latents import invert, latent_divergences, sefa_directions, traverse, walk
from lightning_gans.training.sampling import slerp, truncated
from lightning_gans.training.statistics import standing_statistics
from tests.cli.commands.conftest import ATTRIBUTES, MODELS


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command that must fail, and returns its error."""

    def fails(args, code=2):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == code and capsys.readouterr().err.startswith("lightning-gans: ")
        return stopped.value.__context__

    return fails


def tiles(path, columns, side):
    """Cut a grid of pictures of one size into them, enlarged as they are, ``(rows, columns, H, W)`` grey."""
    scale = max(1, 64 // side)
    step = side * scale + 2
    sheet = np.asarray(Image.open(path).convert("L"))
    left = sheet.shape[1] - columns * step - 2
    return np.stack(
        [
            [
                sheet[y + 2 : y + step : scale, left + x * step + 2 : left + (x + 1) * step : scale]
                for x in range(columns)
            ]
            for y in range(0, sheet.shape[0] - 2, step)
        ]
    )


# --- sample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_sampled(checkpoints, name, monkeypatch):
    monkeypatch.setattr("lightning_gans.cli.commands.sample._BLOCK", 4)
    main(["sample", checkpoints[name], "--num_samples", "10", "--seed", "2", "--output", "s.npz"])
    model, archive = load(checkpoints[name]), np.load("s.npz")
    expected = model.sample(10, seed=2)
    if model.makes_pictures:
        assert np.array_equal(archive["images"], to_uint8(expected).numpy())
        main(["sample", checkpoints[name], "--num_samples", "10", "--seed", "2", "--output", "folder"])
        files = sorted(os.listdir("folder"))
        assert len(files) == 10
        first = np.asarray(Image.open(f"folder/{files[7]}")).reshape(archive["images"][7].shape)
        assert np.array_equal(first, archive["images"][7])
    else:
        assert np.array_equal(archive["sequences"], expected.numpy())
    assert ("labels" in archive) == (model.num_classes > 0)


@pytest.mark.parametrize(("name", "channels"), [("conditional", 1), ("resnet", 3)])
def test_the_layout_of_guided_diffusion_has_its_names_and_rgb(checkpoints, name, channels, fails):
    words = ["sample", checkpoints[name], "--num_samples", "5", "--seed", "2", "--output"]
    main([*words, "s.npz", "--layout", "adm"])
    main([*words, "plain.npz"])
    made, plain = np.load("s.npz"), np.load("plain.npz")
    assert sorted(made) == ["arr_0", "arr_1"] and plain["images"].shape[3] == channels
    assert made["arr_0"].dtype == np.uint8 and made["arr_0"].shape[3] == 3
    assert np.array_equal(made["arr_0"], plain["images"].repeat(3 // channels, axis=3))
    assert np.array_equal(made["arr_1"], plain["labels"])
    assert fails([*words, "folder", "--layout", "adm"]).setting == "--output"
    words[1] = checkpoints["recurrent"]
    assert fails([*words, "waves.npz", "--layout", "adm"]).setting == "--layout"


def test_an_archive_is_what_numpy_writes(checkpoints):
    main(["sample", checkpoints["conditional"], "--labels", "2,1", "--num_samples", "5", "--output", "s.npz"])
    ours = np.load("s.npz")
    np.savez("theirs.npz", images=ours["images"], labels=ours["labels"])
    theirs = np.load("theirs.npz")
    assert ours.files == theirs.files == ["images", "labels"]
    for name in theirs.files:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
    assert ours["labels"].tolist() == [2, 1, 2, 1, 2] and ours["labels"].dtype == np.int64
    assert ours["images"].dtype == np.uint8 and ours["images"].flags.c_contiguous


def test_a_folder_that_is_not_empty_is_left_alone(checkpoints, workplace, fails):
    (workplace / "mine").mkdir()
    main(["sample", checkpoints["gan"], "--num_samples", "2", "--output", "mine"])  # an empty one is taken
    before = {path: path.read_bytes() for path in (workplace / "mine").iterdir()}
    assert len(before) == 2
    assert "name a new one" in str(fails(["sample", checkpoints["gan"], "--output", "mine"], code=1))
    assert {path: path.read_bytes() for path in (workplace / "mine").iterdir()} == before


@pytest.mark.parametrize("name", [".png", ".npz", "a.gif"])
def test_a_name_that_is_only_a_suffix_is_no_folder(name):
    with pytest.raises(SettingError) as error:
        outputs.check_output(name)
    assert error.value.setting == "--output"


def test_what_an_error_interrupts_leaves_nothing(workplace):
    with pytest.raises(KeyboardInterrupt), replacing_folder("new/folder") as folder:
        (folder / "a").write_text("a")
        raise KeyboardInterrupt
    assert [path.name for path in workplace.rglob("*")] == ["new"]
    for output in ("s.npz", "folder"):
        path = outputs.check_output(output)
        with pytest.raises(ValueError, match="in the midst"), outputs.open_output(path, 4, (1, 8, 8)) as write:
            write(torch.zeros(2, 1, 8, 8))
            raise ValueError("in the midst")
    assert sorted(path.name for path in workplace.rglob("*")) == ["new"]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["s.npz", "folder"])
def test_a_kill_leaves_no_part_under_the_final_name(checkpoints, workplace, output):
    command = [sys.executable, "-m", "lightning_gans", "sample", checkpoints["gan"], "--num_samples", "2000000"]
    process = subprocess.Popen([*command, "--output", output], cwd=workplace)
    begun = time.monotonic()
    while not any(path.name.startswith(".") for path in workplace.iterdir()) and time.monotonic() - begun < 100:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(path.name.startswith(".lightning_gans-") for path in workplace.iterdir())
    assert not (workplace / output).exists()


def test_truncation_cuts_the_normal_distribution_off():
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    cut = truncated(noise, 0.7)
    assert cut.abs().max() <= 0.7
    assert torch.equal(noise.argsort(), cut.argsort()) or (cut[noise.argsort()].diff() >= 0).all()
    # The distribution function of the normal one that is cut off, in closed form.
    normal = torch.distributions.Normal(0.0, 1.0)
    edges = torch.linspace(-0.7, 0.7, 15)
    low, high = normal.cdf(torch.tensor([-0.7, 0.7]))
    expected = (normal.cdf(edges) - low) / (high - low)
    found = torch.stack([(cut <= edge).float().mean() for edge in edges])
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-3)
    torch.testing.assert_close(truncated(noise, 50.0), noise)


def test_truncation_reaches_the_command(checkpoints, fails):
    model = load(checkpoints["vae"])
    main(
        ["sample", checkpoints["vae"], "--num_samples", "3", "--seed", "1", "--truncation", "0.3", "--output", "s.npz"]
    )
    expected = model.sample(3, seed=1, truncation=0.3)
    assert np.array_equal(np.load("s.npz")["images"], to_uint8(expected).numpy())
    assert not torch.equal(expected, model.sample(3, seed=1))
    error = fails(["sample", checkpoints["vae"], "--truncation", "-1", "--output", "s.npz"])
    assert (error.setting, error.value) == ("truncation", -1.0)


@pytest.mark.parametrize("words", [[], ["--no_ema"], ["--truncation", "0.5"]])
def test_standing_statistics_reach_the_command_and_not_the_checkpoint(checkpoints, words, fails):
    before = Path(checkpoints["dcgan"]).read_bytes()
    options = {"truncation": 0.5} if "--truncation" in words else {"ema": "--no_ema" not in words}
    command = ["sample", checkpoints["dcgan"], "--num_samples", "3", "--seed", "1", *words]
    main([*command, "--standing_statistics", "2", "--output", "s.npz"])
    main([*command, "--output", "plain.npz"])
    model = load(checkpoints["dcgan"])
    with standing_statistics(model, 2, **options):
        expected = to_uint8(model.sample(3, seed=1, **options)).numpy()
    assert np.array_equal(np.load("s.npz")["images"], expected)
    assert not np.array_equal(np.load("plain.npz")["images"], expected)
    assert Path(checkpoints["dcgan"]).read_bytes() == before
    for name, num in (("dcgan", "0"), ("r3gan", "2")):
        error = fails(["sample", checkpoints[name], "--standing_statistics", num, "--output", "no.npz"])
        assert error.setting == "standing_statistics" and not os.path.exists("no.npz")


# --- interpolate ----------------------------------------------------------------------------------------------


def test_an_arc_has_the_lengths_between_and_even_steps():
    start, end = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    way = slerp(start, end, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way[[0, -1]], torch.stack([start, end]))
    torch.testing.assert_close(way.norm(dim=1), torch.linspace(3, 1, 5))
    angles = torch.cosine_similarity(way[1:], way[:-1]).arccos()
    torch.testing.assert_close(angles, torch.full((4,), torch.pi / 8))
    torch.testing.assert_close(slerp(start, 2 * start, torch.tensor([0.5]))[0], 1.5 * start)


def test_samples_of_conditions(checkpoints, workplace, fails):
    command = ["sample", checkpoints["attributes"], "--seed", "1"]
    main([*command, "--condition", "smiling=1,angle=30", "--condition", "angle=-45", "--output", "a.npz"])
    archive, model = np.load("a.npz"), load(checkpoints["attributes"])
    np.testing.assert_allclose(archive["labels"], [[1, 30], [1, -45]], rtol=1e-6)
    labels = torch.tensor([[1.0, 75 / 90], [1.0, 0.0]])
    assert archive["images"].tolist() == to_uint8(model.sample(labels=labels, seed=1)).tolist()
    main([*command, "--num_samples", "4", "--output", "folder"])
    assert sorted(path.name for path in (workplace / "folder").iterdir()) == [f"00000{k}.png" for k in range(4)]
    main([*command, "--num_samples", "4", "--output", "b.npz"])
    np.testing.assert_allclose(np.load("b.npz")["labels"], ATTRIBUTES.restore(ATTRIBUTES.in_turn(4)))
    error = fails([*command, "--condition", "smile=1", "--output", "a.png"])
    assert (error.setting, error.value) == ("--condition", "smile") and "Did you mean 'smiling'?" in str(error)
    assert fails([*command, "--condition", "angle=1", "--labels", "1", "--output", "a.png"]).setting == "--condition"
    for other, hint in (("gan", "unconditional"), ("conditional", "--labels")):
        error = fails(["sample", checkpoints[other], "--condition", "angle=1", "--output", "a.png"])
        assert error.setting == "--condition" and hint in str(error)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "recurrent"])
def test_a_way_begins_and_ends_at_the_seeds_pictures(checkpoints, name):
    main(["interpolate", checkpoints[name], "--seeds", "4,9,5", "--steps", "3", "--output", "w.png"])
    model = load(checkpoints[name])
    found = tiles("w.png", 5, model.image_shape[1])
    assert len(found) == max(model.num_classes, 1)
    for label, row in enumerate(found):
        for place, seed in ((0, 4), (2, 9), (4, 5)):
            picture = model.sample(1, [label] if model.num_classes else None, seed=seed)
            expected = to_uint8(picture)[0].float()
            if expected.shape[2] == 3:
                expected = torch.from_numpy(np.asarray(Image.fromarray(expected.byte().numpy()).convert("L"))).float()
            np.testing.assert_allclose(row[place], expected.numpy().reshape(row[place].shape), atol=1)


@pytest.mark.parametrize("name", ["conditional", "conditional_conv", "resnet", "r3gan", "conditional_vae", "vae_gan"])
def test_between_labels_lie_weights_of_the_classes(checkpoints, name):
    main(["interpolate", checkpoints[name], "--labels", "0,2", "--seeds", "7", "--steps", "3", "--output", "w.png"])
    model = load(checkpoints[name])
    (row,) = tiles("w.png", 3, model.image_shape[1])
    latents = model.latents(1, seed=7)
    with torch.no_grad(), model.evaluating():
        middle = model.decode(latents, torch.tensor([[0.5, 0.0, 0.5]]))
        ends = [model.decode(latents, torch.tensor([label])) for label in (0, 2)]
        whole = [model.decode(latents, torch.eye(3)[[label]]) for label in (0, 2)]
    for end, same in zip(ends, whole, strict=True):
        torch.testing.assert_close(end, same)
    if model.image_shape[0] == 1:
        for tile, expected in zip(row, (ends[0], middle, ends[1]), strict=True):
            np.testing.assert_allclose(tile, to_uint8(expected)[0, :, :, 0].float().numpy(), atol=1)


def test_a_vae_goes_between_two_pictures(checkpoints):
    source = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        noise = torch.randint(256, (8, 8), generator=source, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(f"{name}.png")
    main(["interpolate", checkpoints["vae"], "--pictures", "a.png", "b.png", "--steps", "3", "--output", "w.png"])
    model = load(checkpoints["vae"])
    (row,) = tiles("w.png", 3, 8)
    images = torch.stack([torch.from_numpy(np.asarray(Image.open(f"{name}.png")))[None] for name in "ab"]) / 127.5 - 1
    with torch.no_grad(), model.evaluating():
        means, _ = model.encode(images)
        expected = model.decode(torch.stack([means[0], means.mean(0), means[1]]))
    np.testing.assert_allclose(row, to_uint8(expected)[..., 0].float().numpy(), atol=1)
    main(
        [
            "interpolate",
            checkpoints["conditional_vae"],
            "--pictures",
            "a.png",
            "b.png",
            "--labels",
            "1",
            "--output",
            "c.png",
        ]
    )
    assert tiles("c.png", 8, 16).shape == (1, 8, 16, 16)


def test_one_picture_under_several_labels(checkpoints):
    noise = torch.randint(256, (16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save("a.png")
    main(
        [
            "interpolate",
            checkpoints["conditional_vae"],
            "--pictures",
            "a.png",
            "--labels",
            "1,2",
            "--steps",
            "3",
            "--output",
            "w.png",
        ]
    )
    model = load(checkpoints["conditional_vae"])
    (row,) = tiles("w.png", 3, 16)
    image = noise[None, None] / 127.5 - 1
    for tile, label in ((row[0], 1), (row[2], 2)):
        expected = to_uint8(model.reconstruct(image, torch.tensor([label])))
        np.testing.assert_allclose(tile, expected[0, :, :, 0].float().numpy(), atol=1)


@pytest.mark.parametrize(
    ("name", "number", "output", "setting"),
    [
        ("gan", 10_000_000, "s.png", "--num_samples"),
        ("conditional", 100_000, "s.png", "--num_samples"),  # a column for each class
        ("gan", 12345678901234567890123, "s.npz", "num_samples"),
    ],
)
def test_more_samples_than_can_be_written_are_an_error(checkpoints, name, number, output, setting, fails):
    error = fails(["sample", checkpoints[name], "--num_samples", str(number), "--output", output])
    assert (error.setting, error.value) == (setting, number) and not os.path.exists(output)


def test_too_many_pictures_for_one_sheet_are_an_error(checkpoints, monkeypatch, fails):
    monkeypatch.setattr("lightning_gans.io.pictures._MOST_PIXELS", 10_000)
    for number in range(2):
        Image.new("L", (8, 8)).save(f"{number}.png")
    main(["reconstruct", checkpoints["vae"], "0.png", "--output", "r.png"])
    assert fails(["reconstruct", checkpoints["vae"], "0.png", "1.png", "--output", "s.png"]).value == 2
    assert not os.path.exists("s.png")
    main(["reconstruct", checkpoints["vae"], "0.png", "1.png", "--output", "s.npz"])


def test_numbers_that_begin_with_a_minus_are_a_value(checkpoints, fails):
    main(["interpolate", checkpoints["gan"], "--seeds", "-5,7", "--steps", "2", "--output", "w.png"])
    found = tiles("w.png", 2, 8)[0]
    expected = [to_uint8(load(checkpoints["gan"]).sample(1, seed=seed))[0, :, :, 0].float() for seed in (-5, 7)]
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1)
    error = fails(["sample", checkpoints["conditional"], "--labels", "-1,2", "--output", "s.npz"])
    assert "-1" in str(error) and "expected one argument" not in str(error)


@pytest.mark.parametrize(
    ("name", "args", "setting"),
    [
        ("gan", ["--steps", "100000"], "--steps"),  # too large a picture
        ("conditional", ["--steps", "7000"], "--steps"),
        ("gan", ["--steps", "1"], "--steps"),
        ("gan", ["--seeds", "1"], "--seeds"),
        ("gan", ["--seeds", "1,x"], "--seeds"),
        ("conditional", ["--labels", "1,2", "--seeds", "1,2,3"], "--seeds"),
        ("gan", ["--labels", "1,2"], "--labels"),
        ("conditional", ["--labels", "1,3"], "--labels"),
        ("conditional_vae", ["--pictures", "a.png", "a.png"], "--labels"),
        ("gan", ["--pictures", "a.png", "a.png"], "--pictures"),
        ("vae", ["--pictures", "a.png", "a.png", "--seeds", "1"], "--pictures"),
        ("recurrent", ["--seeds", "1,2"], "checkpoint"),
    ],
)
def test_an_impossible_interpolation_is_an_error(checkpoints, name, args, setting, fails):
    Image.new("L", (8, 8)).save("a.png")
    assert fails(["interpolate", checkpoints[name], *args, "--output", "w.png"]).setting == setting
    assert not os.path.exists("w.png")


# --- walk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gan", "conditional", "r3gan", "vae"])
def test_a_walk_as_a_sheet_has_a_row_for_each_part(checkpoints, name):
    main(["walk", checkpoints[name], "--seeds", "4,9,5", "--frames", "3", "--loop", "--output", "w.png"])
    model = load(checkpoints[name])
    found = tiles("w.png", 3, model.image_shape[1])
    expected = to_uint8(walk(model, [4, 9, 5], frames=3, loop=True))[..., 0].view(found.shape)
    np.testing.assert_allclose(found, expected, atol=1)


def test_a_walk_as_a_gif(checkpoints, capsys):
    words = [
        "walk",
        checkpoints["conditional"],
        "--labels",
        "2,1",
        "--frames",
        "5",
        "--fps",
        "10",
        "--easing",
        "linear",
    ]
    main([*words, "--output", "w.gif"])
    seeds = [int(seed) for seed in capsys.readouterr().out.split("seeds ")[1].split(":")[0].split(",")]
    expected = walk(load(checkpoints["conditional"]), seeds, [2, 1], frames=5, easing="linear")
    with Image.open("w.gif") as opened:
        assert opened.n_frames == len(expected) == 6 and opened.info["duration"] == 100
        for place, image in enumerate(to_uint8(expected)[..., 0].numpy()):
            opened.seek(place)
            np.testing.assert_allclose(np.asarray(opened.convert("L"))[::32, ::32], image, atol=1)


def test_the_number_of_random_seeds(checkpoints, capsys):
    for words, num in (([], 4), (["--num_seeds", "2"], 2)):
        main(["walk", checkpoints["gan"], *words, "--frames", "2", "--output", "w.png"])
        assert len(capsys.readouterr().out.split("seeds ")[1].split(",")) == num


@pytest.mark.parametrize(
    ("name", "args", "code", "setting"),
    [
        ("gan", ["--output", "w.jpg"], 2, "--output"),
        ("gan", ["--output", "w.gif", "--fps", "100"], 2, "fps"),
        ("gan", ["--output", "w.png", "--fps", "nan"], 2, "fps"),
        ("gan", ["--output", "w.gif", "--frames", "0"], 2, "frames"),
        ("gan", ["--output", "w.gif", "--frames", "100000000"], 2, "--frames"),
        ("gan", ["--output", "w.png", "--frames", "1000000"], 2, "--frames"),
        ("gan", ["--output", "w.gif", "--seeds", "1"], 2, "--seeds"),
        ("gan", ["--output", "w.gif", "--num_seeds", "0"], 2, "--seeds"),
        ("gan", ["--output", "w.gif", "--seeds", "1,2", "--num_seeds", "2"], 2, "--num_seeds"),
        ("gan", ["--output", "w.gif", "--labels", "1"], 2, "--labels"),
        ("gan", ["--output", "w.gif", "--truncation", "0"], 2, "truncation"),
        ("conditional", ["--output", "w.gif", "--seeds", "1,2", "--labels", "0,1,2"], 2, "--seeds"),
        ("conditional", ["--output", "w.gif", "--labels", "3"], 2, "--labels"),
        ("recurrent", ["--output", "w.gif"], 2, "checkpoint"),
        ("gan", ["--output", "w.mp4"], 1, "path"),
    ],
)
def test_an_impossible_walk_is_an_error(checkpoints, monkeypatch, name, args, code, setting, fails):
    monkeypatch.setattr("lightning_gans.io.animations.find_spec", lambda package: None)
    assert fails(["walk", checkpoints[name], *args], code).setting == setting
    assert not os.path.exists(args[1])


# --- traverse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gan", "resnet", "rows", "vae", "conditional_vae", "vae_gan"])
def test_a_traversal_has_a_row_for_each_latent(checkpoints, name):
    main(["traverse", checkpoints[name], "--num", "3", "--steps", "4", "--seed", "5", "--output", "t.png"])
    model = load(checkpoints[name])
    latents = [0, 1, 2]
    if hasattr(model, "encode"):
        divergences = latent_divergences(model)
        latents = divergences.argsort(descending=True)[:3].tolist()
        assert divergences[latents[0]] == divergences.max() and latents != [0, 1, 2]
    found = tiles("t.png", 4, model.image_shape[1])
    expected = to_uint8(traverse(model, latents, 5, steps=4).flatten(0, 1))
    if model.image_shape[0] == 1:
        np.testing.assert_allclose(found, expected[..., 0].view(found.shape), atol=1)
    assert found.shape[:2] == (3, 4)


def test_settings_of_a_traversal(checkpoints):
    words = ["--num", "99", "--steps", "2", "--span", "0.5", "--label", "2"]
    main(["traverse", checkpoints["conditional"], *words, "--output", "t.png"])
    found = tiles("t.png", 2, 8)
    expected = to_uint8(traverse(load(checkpoints["conditional"]), range(4), label=2, span=0.5, steps=2).flatten(0, 1))
    np.testing.assert_allclose(found, expected[..., 0].view(4, 2, 8, 8), atol=1)


def test_a_traversal_along_the_directions_of_sefa(checkpoints):
    main(["traverse", checkpoints["conditional"], "--directions", "sefa", "--num", "2", "--output", "t.png"])
    model = load(checkpoints["conditional"])
    expected = to_uint8(traverse(model, sefa_directions(model, 2)).flatten(0, 1))[..., 0]
    np.testing.assert_allclose(tiles("t.png", 7, 8), expected.view(2, 7, 8, 8), atol=1)


@pytest.mark.parametrize(
    ("name", "args", "setting"),
    [
        ("rows", ["--output", "t.png", "--directions", "sefa"], "directions"),
        ("gan", ["--output", "t.gif"], "--output"),
        ("gan", ["--output", "t.png", "--num", "0"], "num"),
        ("gan", ["--output", "t.png", "--steps", "1"], "--steps"),
        ("gan", ["--output", "t.png", "--steps", "100000000"], "--steps"),
        ("gan", ["--output", "t.png", "--span", "nan"], "span"),
        ("gan", ["--output", "t.png", "--label", "0"], "labels"),
        ("conditional", ["--output", "t.png", "--label", "3"], "labels"),
        ("recurrent", ["--output", "t.png"], "checkpoint"),
    ],
)
def test_an_impossible_traversal_is_an_error(checkpoints, name, args, setting, fails):
    assert fails(["traverse", checkpoints[name], *args]).setting == setting
    assert not os.path.exists(args[1])


# --- reconstruct ----------------------------------------------------------------------------------------------


def test_pictures_stand_above_their_reconstructions(checkpoints, workplace):
    (workplace / "in").mkdir()
    source = torch.Generator().manual_seed(0)
    given = torch.randint(256, (12, 8, 8), generator=source, dtype=torch.uint8)
    for number, picture in enumerate(given):
        Image.fromarray(picture.numpy()).save(f"in/{number:02}.png")
    (workplace / "in" / "notes.txt").write_text("no picture")
    model = load(checkpoints["vae"])
    expected = to_uint8(model.reconstruct(given[:, None] / 127.5 - 1))[..., 0]
    main(["reconstruct", checkpoints["vae"], "in", "--output", "r.png"])
    found = tiles("r.png", 10, 8)
    assert np.array_equal(found[0], given[:10]) and np.array_equal(found[2, :2], given[10:])
    np.testing.assert_allclose(found[1], expected[:10].float(), atol=1)
    np.testing.assert_allclose(found[3, :2], expected[10:].float(), atol=1)
    main(["reconstruct", checkpoints["vae"], "in", "--output", "r.npz"])
    assert np.array_equal(np.load("r.npz")["images"][..., 0], expected)


def test_labels_of_pictures_count_in_a_conditional_model(checkpoints):
    Image.linear_gradient("L").resize((20, 16)).save("wide.png")
    for label in (0, 1):
        main(
            [
                "reconstruct",
                checkpoints["conditional_vae"],
                "wide.png",
                "--labels",
                str(label),
                "--output",
                f"{label}.npz",
            ]
        )
    assert not np.array_equal(np.load("0.npz")["images"], np.load("1.npz")["images"])
    main(["reconstruct", checkpoints["vae_gan"], "wide.png", "--labels", "2", "--output", "2.png"])


@pytest.mark.parametrize(
    ("name", "args", "code", "setting"),
    [
        ("gan", ["a.png"], 2, "checkpoint"),
        ("vae", ["nowhere"], 1, "nowhere"),
        ("vae", ["text.png"], 1, "text.png"),
        ("vae", ["empty"], 1, "empty"),
        ("vae", ["a.png", "--labels", "1"], 2, "--labels"),
        ("conditional_vae", ["a.png"], 2, "--labels"),
    ],
)
def test_an_impossible_reconstruction_is_an_error(checkpoints, workplace, name, args, code, setting, fails):
    Image.new("L", (8, 8)).save("a.png")
    (workplace / "text.png").write_text("text")
    (workplace / "empty").mkdir()
    assert fails(["reconstruct", checkpoints[name], *args, "--output", "r.png"], code).setting == setting
    assert not os.path.exists("r.png")


# --- invert ---------------------------------------------------------------------------------------------------


def paint(num, side):
    """Write pictures of noise to the folder ``in``, and return them as images."""
    os.makedirs("in")
    pixels = torch.randint(256, (num, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture.numpy()).save(f"in/{number:02}.png")
    return pixels[:, None] / 127.5 - 1


@pytest.mark.parametrize("name", ["gan", "conditional_vae"])
def test_pictures_stand_beside_their_inversions(checkpoints, name, monkeypatch, capsys):
    monkeypatch.setattr("lightning_gans.cli.commands.invert._BLOCK", 2)
    model = load(checkpoints[name])
    images, labels = paint(3, model.image_shape[1]), [2, 0, 2]
    words = ["--latents", "z.npz", "--steps", "5", "--starts", "2", "--seed", "3", "--feature_weight", "0.5"]
    words += ["--labels", "2,0"] if model.num_classes else []
    main(["invert", checkpoints[name], "in", *words, "--output", "i.png"])
    options = {"steps": 5, "starts": 2, "seed": 3, "feature_weight": 0.5}
    expected = invert(model, images, labels if model.num_classes else None, **options)
    found, archive = tiles("i.png", 2, model.image_shape[1]), np.load("z.npz")
    assert np.array_equal(found[:, 0], to_uint8(images)[..., 0])
    np.testing.assert_allclose(found[:, 1], to_uint8(expected.images)[..., 0], atol=1)
    np.testing.assert_allclose(archive["latents"], expected.latents, atol=1e-4)
    np.testing.assert_allclose(archive["distances"], expected.distances, atol=1e-5)
    assert ("labels" in archive) == (model.num_classes > 0)
    assert f"{expected.distances.mean():.4f}" in capsys.readouterr().out


def test_the_extractor_is_that_of_the_runs_scores(checkpoints, workplace, monkeypatch):
    run = workplace / "runs" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics").mkdir()
    (run / "config.yaml").write_text("model: {}")
    checkpoint = shutil.copy(checkpoints["gan"], run / "checkpoints" / "last.ckpt")
    paint(1, 8)
    used = []
    monkeypatch.setattr("lightning_gans.cli.commands.invert.invert", lambda *_, extractor, **__: used.append(extractor))
    for name, expected in ((None, "mnist"), ("digits", "digits"), ("mine.Network", "mnist"), (["x"], "mnist")):
        if name is not None:
            record = {"stage": "val", "scores": {}, "protocol": {"extractor": name}}
            (run / "metrics" / "step=0000001.json").write_text(json.dumps(record))
        with pytest.raises(TypeError):  # as the one in its place returns nothing
            main(["invert", str(checkpoint), "in", "--output", "i.png", "--traceback"])
        assert used[-1].name == expected
    with pytest.raises(TypeError):
        main(["invert", str(checkpoint), "in", "--extractor", "none", "--output", "i.png", "--traceback"])
    assert used[-1] is None


def test_latents_do_not_replace_a_picture(checkpoints, workplace, fails):
    np.savez("a.npz", images=np.zeros((8, 8), np.uint8))
    before = Path("a.npz").read_bytes()
    words = ["invert", checkpoints["gan"], "a.npz", "--output", "i.png", "--latents", "a.npz"]
    assert fails(words).setting == "--latents" and Path("a.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "args", "code", "setting"),
    [
        ("gan", ["in", "--output", "i.gif"], 2, "--output"),
        ("gan", ["in", "--output", "i.png", "--latents", "z.txt"], 2, "--latents"),
        ("gan", ["in", "--output", "i.png", "--starts", "0"], 2, "starts"),
        ("gan", ["in", "--output", "i.png", "--lr", "-1"], 2, "lr"),
        ("gan", ["in", "--output", "i.png", "--extractor", "vgg"], 2, "extractor"),
        ("gan", ["in", "--output", "i.png", "--extractor", "none", "--weights_path", "w.pt"], 2, "--weights_path"),
        ("gan", ["in", "--output", "i.png", "--labels", "1"], 2, "--labels"),
        ("gan", ["nowhere", "--output", "i.png"], 1, "nowhere"),
        ("conditional", ["in", "--output", "i.png"], 2, "--labels"),
        ("recurrent", ["in", "--output", "i.png"], 2, "checkpoint"),
    ],
)
def test_an_impossible_inversion_is_an_error(checkpoints, name, args, code, setting, fails):
    paint(1, 8)
    assert fails(["invert", checkpoints[name], *args], code).setting == setting
    assert sorted(os.listdir(".")) == ["in"]
