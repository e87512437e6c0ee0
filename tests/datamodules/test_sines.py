import math
import os
import zipfile

import numpy as np
import pytest
import torch

from lightning_gans import DataError, RecurrentGAN, SequenceDataModule, SettingError, SinesDataModule
from tests.test_resume import differences

SMALL = {"num_sequences": 48, "num_test": 20, "num_steps": 12, "batch_size": 4, "val_size": 8}


def test_splits_and_batches():
    data = SinesDataModule(**SMALL)
    assert [len(data.images(split)[0]) for split in ("train", "val", "test")] == [40, 8, 20]
    assert data.image_shape == (1, 12) and data.num_classes == 0
    sequences, labels = next(iter(data.train_dataloader()))
    assert (sequences.shape, sequences.dtype) == ((4, 1, 12), torch.float32)
    assert (labels.tolist(), labels.dtype) == ([0] * 4, torch.int64)
    known = {tuple(sequence.flatten().tolist()) for sequence in data.images("train")[0]}
    assert all(tuple(sequence.flatten().tolist()) in known for sequence in sequences)  # not scaled, not rounded


@pytest.mark.parametrize("channels", [1, 3])
def test_each_channel_is_a_sine_wave_within_the_ranges(channels):
    ranges = {"frequencies": (1.5, 3.0), "amplitudes": (0.2, 0.4), "phases": (0.5, 1.0)}
    data = SinesDataModule(num_sequences=200, num_channels=channels, num_steps=24, val_size=0, **ranges)
    sequences = data.images("train")[0].double()
    # A sine wave of frequency f obeys x[t + 1] + x[t - 1] = 2 cos(2 pi f / T) x[t], whatever its phase.
    middle, sides = sequences[..., 1:-1], sequences[..., 2:] + sequences[..., :-2]
    ratio = (middle * sides).sum((1, 2)) / (middle**2).sum((1, 2)) / 2
    torch.testing.assert_close(sides, 2 * ratio[:, None, None] * middle, rtol=0, atol=1e-5)  # one for all channels
    angles = torch.acos(ratio)
    # With the angle known, two values give the amplitude and the phase.
    sines = sequences[..., 0]
    cosines = (sequences[..., 1] - sines * torch.cos(angles)[:, None]) / torch.sin(angles)[:, None]
    found = {
        "frequencies": angles * 24 / (2 * math.pi),
        "amplitudes": torch.hypot(sines, cosines),
        "phases": torch.atan2(sines, cosines),
    }
    for name, (low, high) in ranges.items():
        values, slack = found[name].flatten(), 0.02 * (high - low)
        assert low - slack / 10 < values.min() < low + 3 * slack, name
        assert high - 3 * slack < values.max() < high + slack / 10, name
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=(high - low) / 10), name


def test_labels_are_bands_of_frequency():
    data = SinesDataModule(num_sequences=300, num_steps=32, num_classes=4, frequencies=(2, 6), val_size=0)
    assert data.num_classes == 4 and data.class_names == ["2 to 3", "3 to 4", "4 to 5", "5 to 6"]
    sequences, labels = data.images("train")
    spectra = torch.fft.rfft(sequences[:, 0], 16 * 32).abs()
    frequencies = spectra.argmax(1) / 16
    assert set(labels.tolist()) == {0, 1, 2, 3}
    for label in range(4):
        chosen = frequencies[labels == label]
        assert 2 + label - 0.2 < chosen.min() and chosen.max() < 3 + label + 0.2


def test_a_sequence_is_a_function_of_the_seed_the_split_and_its_place():
    few = SinesDataModule(**{**SMALL, "num_sequences": 10, "val_size": 0}).images("train")[0]
    data = SinesDataModule(**{**SMALL, "val_size": 0})
    assert data.images("train")[0][:10].equal(few)
    assert not data.images("test")[0][:10].equal(few)
    assert not SinesDataModule(**{**SMALL, "val_size": 0}, seed=1).images("train")[0][:10].equal(few)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_sequences", 0),
        ("num_steps", 0),
        ("num_channels", 0),
        ("num_test", 0),
        ("num_classes", -1),
        ("num_steps", 32.5),
        ("num_classes", 2.5),
        ("batch_size", 2.5),
        ("frequencies", 3.0),
        ("frequencies", ("a", "b")),
        ("frequencies", (3, 2)),
        ("frequencies", (1, 7)),
        ("frequencies", (1, 2, 3)),
        ("amplitudes", (0.5, 1.1)),
        ("amplitudes", (float("nan"), 1)),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(SettingError) as error:
        SinesDataModule(**{**SMALL, setting: value})
    assert error.value.setting == setting


def model():
    torch.manual_seed(0)
    made = RecurrentGAN((1, 12), 4, hidden_dim=4)
    made.run_seed = 5
    return made


def test_a_resumed_run_ends_as_the_run_that_never_stopped(make_trainer, tmp_path):
    whole = model()
    make_trainer(max_steps=15).fit(whole, SinesDataModule(**SMALL))
    first = make_trainer(max_steps=7)
    first.fit(model(), SinesDataModule(**SMALL))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = model()
    make_trainer(max_steps=15).fit(again, SinesDataModule(**SMALL), ckpt_path=tmp_path / "half.ckpt")
    assert not differences(dict(whole.state_dict()), dict(again.state_dict()))


def test_bfloat16_batches(make_trainer):
    seen = []

    class Watched(RecurrentGAN):
        def training_step(self, batch, batch_idx):
            seen.append(batch[0])
            return super().training_step(batch, batch_idx)

    make_trainer(max_steps=1, precision="64-true").fit(Watched((1, 12), 4, hidden_dim=4), SinesDataModule(**SMALL))
    assert seen[0].dtype == torch.float64


# --- sequences of the user's own --------------------------------------------------------------------------

SEQUENCES = np.linspace(-1, 1, 6 * 2 * 4, dtype=np.float32).reshape(6, 2, 4)
LABELS = np.array([0, 2, 1, 0, 2, 1])


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("from_file", [False, True])
def test_sequences_of_the_users_own(tmp_path, labels, from_file):
    arrays = {"sequences": SEQUENCES} | ({} if labels is None else {"labels": labels})
    np.savez(tmp_path / "mine.npz", **arrays)
    given = {"path": tmp_path / "mine.npz"} if from_file else arrays
    data = SequenceDataModule(**given, batch_size=2, val_size=2)
    assert data.image_shape == (2, 4) and data.num_classes == (0 if labels is None else 3)
    (train, train_labels), (val, val_labels) = data.images("train"), data.images("val")
    found = torch.cat([train, val])
    order = found.flatten(1)[:, 0].argsort()
    assert found[order].equal(torch.from_numpy(SEQUENCES))
    wanted = [0] * 6 if labels is None else labels.tolist()
    assert torch.cat([train_labels, val_labels])[order].tolist() == wanted


@pytest.mark.parametrize(
    ("wrong", "arrays"),
    [
        ("sequences", {"sequences": SEQUENCES[0]}),
        ("sequences", {"sequences": SEQUENCES[:0]}),
        ("sequences", {"sequences": SEQUENCES * 2}),
        ("sequences", {"sequences": SEQUENCES * np.nan}),
        ("sequences", {"sequences": SEQUENCES.astype(str)}),
        ("sequences", {"sequences": SEQUENCES * 1j}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS[:5]}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS - 1}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS / 2}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS.astype(str)}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS * 1j}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS + 10**12}),
        ("labels", {"sequences": SEQUENCES, "labels": LABELS.astype(np.uint64) - 1}),
        (None, {"images": SEQUENCES}),
    ],
)
def test_a_file_with_invalid_arrays(tmp_path, wrong, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError) as error:
        SequenceDataModule(path)
    assert (error.value.setting, error.value.value) == (str(path), wrong)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16])
def test_labels_are_whole_numbers_of_any_kind(kind):
    data = SequenceDataModule(sequences=SEQUENCES, labels=LABELS.astype(kind), val_size=0)
    _, labels = data.images("train")
    assert data.num_classes == 3 and labels.tolist() == LABELS.tolist() and labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"sequences": [[[0.1, 0.2], [0.3]]]}, "sequences"),
        ({"sequences": SEQUENCES, "labels": [None] * 6}, "labels"),
        ({"sequences": SEQUENCES, "labels": [2**70] * 6}, "labels"),
    ],
)
def test_values_that_are_not_arrays_of_numbers(given, name):
    with pytest.raises(DataError) as error:
        SequenceDataModule(**given)
    assert error.value.value == name


@pytest.mark.parametrize("name", ["text.npz", "missing.npz", "deflated.npz", "huge.npz", "array.npz", "fifo.npz"])
def test_an_unreadable_file(tmp_path, name):
    (tmp_path / "text.npz").write_text("no archive")
    os.mkfifo(tmp_path / "fifo.npz")
    np.savez_compressed(tmp_path / "deflated.npz", sequences=SEQUENCES)
    content = bytearray((tmp_path / "deflated.npz").read_bytes())
    content[60:70] = bytes(10)
    (tmp_path / "deflated.npz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("sequences.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**50, 2, 4)})
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, SEQUENCES)
    with pytest.raises(DataError) as error:
        SequenceDataModule(tmp_path / name)
    assert error.value.setting == str(tmp_path / name)


@pytest.mark.parametrize(
    "given", [{}, {"path": "x.npz", "sequences": SEQUENCES}, {"path": "x.npz", "labels": LABELS}, {"labels": LABELS}]
)
def test_either_a_file_or_sequences(given):
    with pytest.raises(SettingError) as error:
        SequenceDataModule(**given)
    assert error.value.setting == "path"
