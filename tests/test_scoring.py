"""Scores of one set of images against another, from everything that can hold them."""

import itertools
import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from lightning_gans import GAN, DataError, DigitsDataModule, GenerativeMetrics, InfoGAN, RecurrentGAN, SettingError
from lightning_gans.cli.main import main
from lightning_gans.metrics import Translations, compare, image_sets
from lightning_gans.metrics.extractors import make_extractor
from lightning_gans.metrics.image_sets import as_bytes, read_images
from lightning_gans.metrics.scores import Settings
from lightning_gans.scoring import score
from tests.toys import quiet_trainer, tiny

GRAY = np.zeros((9, 1, 5, 5), np.uint8)
METRICS = ["fid", "kid", "precision", "coverage"]


class Pooled(nn.Module):
    def forward(self, images):
        return F.adaptive_avg_pool2d(images, 3).flatten(1)


def pictures(num, seed, channels=3, size=10):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num, channels, size, size), dtype=torch.uint8, generator=source)


def write_folder(folder, images, kind="png"):
    for number, image in enumerate(images):
        place = folder / f"part{number // 10}"
        place.mkdir(parents=True, exist_ok=True)
        array = image.permute(1, 2, 0).squeeze(-1).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
        Image.fromarray(array).save(place / f"{number:03}.{kind}")
    return folder


def scores(fake, real, **options):
    return score(fake, real, **{"metrics": METRICS, "extractor": Pooled(), **options})["scores"]


@pytest.fixture(scope="module")
def sets():
    return pictures(40, 0), pictures(50, 1)


@pytest.fixture(scope="module")
def expected(sets):
    return scores(*sets)


@pytest.mark.parametrize("form", ["folder", "npz", "adm", "channels first", "npy", "pt", "float", "array"])
def test_every_form_gives_the_same_scores(form, sets, expected, tmp_path):
    fake, real = sets
    channels_last = fake.permute(0, 2, 3, 1).numpy()
    if form == "folder":
        given = write_folder(tmp_path / "fake", fake)
    elif form in ("npz", "adm", "channels first"):
        given, name = tmp_path / "fake.npz", "arr_0" if form == "adm" else "images"
        np.savez(given, **{name: fake.numpy() if form == "channels first" else channels_last})
    elif form == "npy":
        given = tmp_path / "fake.npy"
        np.save(given, channels_last)
    elif form == "pt":
        given = str(tmp_path / "fake.pt")
        torch.save(fake, given)
    else:
        given = fake / 127.5 - 1 if form == "float" else channels_last
    assert scores(given, real) == expected


def test_samples_get_the_scores_of_the_callback(tmp_path):
    model, data = tiny(GAN, image_shape=(1, 28, 28)), DigitsDataModule()
    callback = GenerativeMetrics(METRICS, len(data.split_images("train")), Pooled(), floor=False, neighbor_images=200)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.validate(model, data, verbose=False)
    wanted = {name.removeprefix("val/"): value.item() for name, value in trainer.callback_metrics.items()}
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    for fake in (model, tmp_path / "model.ckpt"):
        found = scores(fake, "digits", settings=Settings(neighbor_images=200))
        assert found == pytest.approx(wanted, rel=1e-6)


def test_auto_is_what_the_real_data_set_prefers():
    images, _ = DigitsDataModule().images("val")
    record = score(images, "digits", metrics=["fid", "label_accuracy"], num=197)
    assert record["protocol"]["extractor"] == "digits"
    assert (record["protocol"]["data"], record["protocol"]["split"]) == ("digits/train", "whole")
    assert record["floor"]["scores"]["label_accuracy"] > 0.95
    assert "label_accuracy" not in record["scores"]  # the samples have no labels
    assert score(images, images, metrics=["fid"], num=197)["protocol"]["extractor"] == "mnist"


@pytest.mark.parametrize("of_data", [False, True])
def test_codes_that_are_not_the_labels_of_the_data_are_not_compared_with_them(monkeypatch, of_data):
    monkeypatch.setattr(InfoGAN, "labels_of_data", of_data)  # True is the control
    model = InfoGAN((1, 28, 28), 4, 10, width=2, dense_dims=[4], recognition_dims=[4])
    found = scores(model, "digits", num=200, metrics=["fid", "fid_class"], floor=False)
    assert ("fid_class/0" in found) == of_data


def test_the_floor_compares_equal_numbers(sets):
    fake, real = sets
    record = score(fake, real, metrics=METRICS, extractor=Pooled())
    assert record["floor"]["num_images"] == 25
    halves = [record["floor"][name] for name in ("scores", "samples")]
    assert all(half.keys() >= set(METRICS) for half in halves)
    same = score(real, real, metrics=METRICS, extractor=Pooled())["floor"]
    assert same["samples"]["fid"] < 3 * same["scores"]["fid"]
    assert (
        score(fake, real[:9], metrics=METRICS, extractor=Pooled(), settings=Settings(3, 3))["floor"]["num_images"] == 4
    )
    assert score(fake, real[:7], metrics=METRICS, extractor=Pooled())["floor"] is None
    assert score(fake, real, metrics=METRICS, extractor=Pooled(), floor=False)["floor"] is None


def test_num_takes_as_many_of_each(sets):
    fake, real = sets
    record = score(fake, real, metrics=["fid"], extractor=Pooled(), num=20)
    assert (record["protocol"]["num_samples"], record["protocol"]["num_real"]) == (20, 20)
    again = score(fake, real, metrics=["fid"], extractor=Pooled(), num=20)
    assert again["scores"] == record["scores"] and again["fake_sha256"] == record["fake_sha256"]
    other = score(fake, real, metrics=["fid"], extractor=Pooled(), num=20, seed=1)
    assert other["scores"] != record["scores"]


def test_gray_and_color_pictures(sets, tmp_path):
    gray = write_folder(tmp_path / "gray", pictures(40, 2, channels=1))
    color = pictures(40, 2, channels=1).expand(-1, 3, -1, -1)
    assert scores(gray, sets[1]) == scores(color, sets[1])


def test_pictures_of_other_sizes_are_resized_with_a_warning(sets, tmp_path):
    folder = write_folder(tmp_path / "fake", sets[0][:39])
    write_folder(folder / "other", pictures(1, 3, size=13))
    with pytest.warns(UserWarning, match="1 of 40 pictures"):
        record = score(folder, sets[1], metrics=METRICS, extractor=Pooled())
    assert record["protocol"]["num_samples"] == 40


@pytest.fixture
def quarter_turn():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_turned_pictures(kind, quarter_turn, tmp_path):
    for place in range(2):
        Image.new("RGB", (20, 12)).save(tmp_path / f"{place}.{kind}", exif=quarter_turn)
    images = read_images(tmp_path).images
    assert images.shape == (2, 3, 20, 12) and images[:2].shape == images.shape


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda folder: folder / "missing", "missing"),
        (lambda folder: folder, ""),
        (lambda folder: write_text(folder / "notes.txt"), "notes.txt"),
        (lambda folder: write_text(folder / "broken.npz"), "broken.npz"),
        (lambda folder: write_text(folder / "broken.npy"), "broken.npy"),
        (lambda folder: write_text(folder / "broken.pt"), "broken.pt"),
        (lambda folder: write_text(folder / "broken.ckpt"), "broken.ckpt"),
        (lambda folder: write_npz(folder / "other.npz", other=np.zeros(3)), "other.npz"),
        (lambda folder: write_npz(folder / "flat.npz", images=np.zeros((3, 4), np.uint8)), "flat.npz"),
        (lambda folder: write_npz(folder / "deep.npz", arr_0=np.zeros((9, 5, 5, 7), np.uint8)), "deep.npz"),
        (lambda folder: write_npz(folder / "nan.npz", images=np.full((9, 1, 5, 5), np.nan)), "nan.npz"),
        (lambda folder: write_npz(folder / "wide.npz", images=np.full((9, 1, 5, 5), 255.0)), "wide.npz"),
        (lambda folder: write_npz(folder / "int.npz", images=np.full((9, 1, 5, 5), 25)), "int.npz"),
        (lambda folder: write_npz(folder / "few.npz", images=GRAY, labels=np.zeros(8, int)), "few.npz"),
        (lambda folder: write_npz(folder / "one_hot.npz", images=GRAY, labels=np.eye(9, dtype=int)), "one_hot.npz"),
        (lambda folder: write_npz(folder / "below.npz", images=GRAY, labels=np.full(9, -1)), "below.npz"),
        (lambda folder: torch.zeros(3, 4), "fake"),
        (lambda folder: torch.full((9, 3, 10, 10), torch.nan), "fake"),
    ],
)
def test_what_is_no_set_of_images(make, setting, sets, tmp_path):
    given = make(tmp_path)
    with pytest.raises(DataError) as caught:
        scores(given, sets[1])
    assert caught.value.setting == (setting if setting == "fake" else str(tmp_path / setting))


@pytest.mark.parametrize("given", [nn.Linear(2, 2), None, ["a", "b"]])
def test_what_has_no_images_names_what_does(given, sets):
    with pytest.raises(SettingError, match="a method sample") as caught:
        scores(sets[0], given)
    assert caught.value.setting == "real"


def test_fewer_images_than_features_are_pointed_out(sets):
    with pytest.warns(UserWarning, match="10 generated and 50 real images are few for the 27 features"):
        scores(sets[0][:10], sets[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores(sets[0][:10], sets[1], metrics=["kid"])
        scores(*sets)


def write_text(path):
    path.write_text("neither pictures nor arrays")
    return path


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("room", [0, 250, 10**6])
def test_pictures_are_the_same_from_memory_and_from_their_files(room, quarter_turn, tmp_path, monkeypatch):
    """Gray with and without opacity, turned ones, and larger ones than the first: each is as it is seen."""
    monkeypatch.setattr(image_sets, "_KEPT_PIXELS", room)
    gray = torch.randint(256, (2, 10, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    Image.fromarray(gray[0]).save(tmp_path / "a.png")
    Image.merge("LA", [Image.fromarray(part) for part in gray]).save(tmp_path / "b.png")
    Image.new("L", (40, 20), 7).save(tmp_path / "c.png", exif=quarter_turn)
    Image.new("1", (10, 10), 1).save(tmp_path / "d.png")
    with pytest.warns(match="do not have the most common size"):
        images = read_images(tmp_path, convert=True).images
    assert images.shape == (4, 1, 10, 10)
    opacity = gray[1] / 255
    wanted = [gray[0], gray[0] * opacity + 255 * (1 - opacity), np.full((10, 10), 7), np.full((10, 10), 255)]
    assert np.abs(images[:].squeeze(1).numpy() - np.stack(wanted)).max() <= 1


def test_text_among_pictures_is_ignored_with_a_warning(sets, expected, tmp_path):
    folder = write_folder(tmp_path / "fake", sets[0])
    write_text(folder / "part0" / "notes.txt")
    with pytest.warns(UserWarning, match="Ignored 1 other"):
        assert scores(folder, sets[1]) == expected


def test_samples_that_are_sequences_cannot_be_scored(sets):
    for sides in ((RecurrentGAN((1, 8), 4, hidden_dim=4), sets[1]), (sets[0], RecurrentGAN((1, 8), 4, hidden_dim=4))):
        with pytest.raises(SettingError, match="sequences: only images can be scored"):
            score(*sides, num=20, metrics=["fid"], extractor=Pooled())


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_too_few_images(num, sets):
    with pytest.raises(SettingError) as caught:
        scores(sets[0][:num], sets[1])
    assert str(num) in str(caught.value)


def test_floats_from_0_to_1_are_warned_about(sets):
    with pytest.warns(UserWarning, match="no value below 0"):
        scores(sets[0] / 255, sets[1])


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"metrics": ["fdi"]}, "metrics"),
        ({"metrics": "fid"}, "metrics"),
        ({"num": 0}, "num"),
        ({"batch_size": 0}, "batch_size"),
        ({"extractor": "vgg"}, "extractor"),
    ],
)
def test_invalid_settings(options, setting, sets):
    with pytest.raises(SettingError) as caught:
        scores(*sets, **options)
    assert caught.value.setting == setting


def test_a_real_model_needs_a_number(sets):
    with pytest.raises(SettingError) as caught:
        scores(sets[0], tiny(GAN))
    assert caught.value.setting == "num"


@pytest.fixture(scope="module")
def translated():
    """Outputs, each as far from its target as from no other target."""
    targets = pictures(9, 3).clamp(20, 230)
    return targets + (torch.arange(9).view(-1, 1, 1, 1) * 2 + 1).byte(), targets


def write_named(folder, images, names, kind):
    folder.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(folder / f"{name}.{kind}")
    return folder


def test_pairs_by_file_names_and_by_order(translated, tmp_path):
    outputs, targets = translated
    wanted = Translations()
    wanted.update(outputs, targets)
    by_order = score(outputs, targets, pairs=True)
    assert by_order["scores"] == pytest.approx({name: float(value) for name, value in wanted.compute().items()})
    assert by_order["left_out"].keys() == {"ms_ssim"} and by_order["floor"] is None
    names = ["a", "a-1", "b", "c", "d10", "d2", "e", "f.x", "g"]
    fake = write_named(tmp_path / "fake", outputs, names, "png")
    real = write_named(tmp_path / "real", targets.flip(0), names[::-1], "tif")
    by_name = score(fake, real, pairs=True)
    assert by_name["scores"] == by_order["scores"]
    assert (by_name["protocol"]["pairs"], by_order["protocol"]["pairs"]) == ("file names", "order")
    assert by_name["fake_sha256"] == by_order["fake_sha256"]
    few = score(fake, real, pairs=True, num=4, metrics=["psnr"])
    chosen = {20 * math.log10(255 / (2 * place + 1)) for place in range(9)}
    assert few["protocol"]["num_samples"] == 4
    assert any(few["scores"]["psnr"] == pytest.approx(sum(four) / 4) for four in itertools.combinations(chosen, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "3.png").rename(folder / "x.png"), "1 pictures"),
        (lambda folder: (folder / "3.png").unlink(), "1 pictures"),
        (lambda folder: write_named(folder / "more", pictures(2, 0), "vw", "png"), "2 pictures"),
        (lambda folder: Image.new("RGB", (9, 10)).save(folder / "3.png"), "1 of 9 pictures do not have"),
        (lambda folder: [Image.new("RGB", (9, 10)).save(path) for path in folder.iterdir()], "[3, 10, 9]"),
        (lambda folder: [Image.new("L", (10, 10)).save(path) for path in folder.iterdir()], "[1, 10, 10]"),
    ],
)
def test_folders_that_form_no_pairs(change, words, translated, tmp_path):
    outputs, targets = translated
    fake, real = (
        write_named(tmp_path / "fake", outputs, range(9), "png"),
        write_named(tmp_path / "real", targets, range(9), "png"),
    )
    change(fake)
    with pytest.raises(DataError) as caught:
        score(fake, real, pairs=True)
    assert words in str(caught.value)
    assert caught.value.setting in (str(fake), str(real))


def test_other_errors_of_pairs(translated):
    outputs, targets = translated
    for given in (outputs[:8], outputs[:, :, :9], outputs[:, :1]):
        with pytest.raises(DataError, match="pairs"):
            score(given, targets, pairs=True)
    with pytest.raises(SettingError, match="choose from psnr"):
        score(outputs, targets, pairs=True, metrics=["fid"])
    with pytest.raises(SettingError, match="pairs"):
        score(tiny(GAN), targets, pairs=True, num=9)


def test_the_command_for_pairs(translated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outputs, targets = translated
    for name, images in {"fake": torch.cat([outputs, targets[:1]]), "real": torch.cat([targets, targets[:1]])}.items():
        np.savez(f"{name}.npz", images=images.numpy())
    for name in ("first.json", "second.json"):
        main(["score", "fake.npz", "--real", "real.npz", "--pairs", "--json", name])
    out = capsys.readouterr().out
    assert "means over 10 pairs of fake.npz and real.npz, matched by order" in out
    assert "no psnr: it is infinite, as 1 of 10 outputs" in out
    assert compare("first.json", "second.json").keys() == {"ssim", "l1"}


def test_the_command(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "fake", pictures(40, 0, channels=1))
    np.savez("real.npz", images=pictures(50, 1, channels=1).numpy())
    for name in ("first.json", "second.json"):
        main(["score", "fake", "--real", "real.npz", "--metrics", "fid,precision", "--json", name])
        out = capsys.readouterr().out
        assert "40 images (fake) against 50 real images (real.npz)" in out
    record = json.loads((tmp_path / "first.json").read_text())
    assert record["protocol"]["extractor"] == "mnist"
    assert record["scores"].keys() == {"fid", "precision"}
    assert compare("first.json", "second.json") == {name: (value, value) for name, value in record["scores"].items()}
    with pytest.raises(SystemExit) as caught:
        main(["score", "nowhere", "--real", "real.npz"])
    assert caught.value.code == 1
    assert "fake is 'nowhere', which does not exist. The names of data sets are mnist," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["score", "nowhere", "--real", "mnist", "--import", "no_such_module"])
    assert "no_such_module" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["score", "fake", "--real", "real.npz", "--json", "real.npz"])
    assert "--json is 'real.npz': it must be a name that ends in .json" in capsys.readouterr().err


@pytest.mark.parametrize("values", [torch.zeros(2, 1, 4, 4).to_sparse(), torch.empty(2, 1, 4, 4, device="meta")])
def test_a_tensor_that_is_not_in_memory_as_such(tmp_path, values):
    torch.save(values, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt is not a set of images"):
        read_images(tmp_path / "a.pt")
    with pytest.raises(DataError, match="not images"):
        as_bytes(torch.empty(2, 1, 0, 4), "sequence")


def test_weights_that_are_code_must_be_the_original_ones(tmp_path):
    (tmp_path / "clip.pt").write_bytes(b"code")
    with pytest.raises(DataError, match="its checksum differs from that of the original file"):
        make_extractor("clip-vit-b-32", (3, 8, 8), str(tmp_path / "clip.pt"))


def test_folders_are_scored_without_lightning(tmp_path):
    for name, seed in (("fake", 0), ("real", 1)):
        write_folder(tmp_path / name, pictures(20, seed, channels=1))
    code = (
        "import sys; from lightning_gans.cli.main import main; "
        f"main(['score', {str(tmp_path / 'fake')!r}, '--real', {str(tmp_path / 'real')!r}, '--metrics', 'fid', "
        "'--extractor', 'mnist']); "
        "print(*(name for name in sys.modules if name in ('pytorch_lightning', 'lightning')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == ""


def test_the_floor_has_samples_of_all_places(sets):
    fake, real = sets
    fake = (fake.float() * torch.linspace(0, 1, len(fake)).view(-1, 1, 1, 1)).byte()  # sorted by brightness
    orders = torch.arange(len(fake)), torch.randperm(len(fake), generator=torch.Generator().manual_seed(0))
    sorted_, mixed = (
        score(fake[order], real, metrics=["fid"], extractor=Pooled())["floor"]["samples"]["fid"] for order in orders
    )
    whole = scores(fake, real, metrics=["fid"])["fid"]
    assert abs(sorted_ - mixed) < 0.25 * whole
