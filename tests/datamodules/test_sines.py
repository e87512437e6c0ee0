import math

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
    with pytest.raises(SettingError, match=setting):
        SinesDataModule(**{**SMALL, setting: value})


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
    ("arrays", "message"),
    [
        ({"sequences": SEQUENCES[0]}, r"shape \[2, 4\], not \(N, channels, steps\)"),
        ({"sequences": SEQUENCES[:0]}, r"shape \[0, 2, 4\]"),
        ({"sequences": SEQUENCES * 2}, r"from -2 to 2: scale it to -1 to 1"),
        ({"sequences": SEQUENCES * np.nan}, "from nan to nan"),
        ({"sequences": SEQUENCES, "labels": LABELS[:5]}, "one whole number from 0 on for each of 6"),
        ({"sequences": SEQUENCES, "labels": LABELS - 1}, "one whole number from 0 on"),
        ({"sequences": SEQUENCES, "labels": LABELS / 2}, "one whole number from 0 on"),
        ({"sequences": SEQUENCES.astype(str)}, "sequences is no array of numbers: .*str"),
        ({"sequences": SEQUENCES * 1j}, "sequences is torch.complex64: give real numbers"),
        ({"sequences": SEQUENCES, "labels": LABELS.astype(str)}, "labels is no array of numbers"),
        ({"sequences": SEQUENCES, "labels": LABELS * 1j}, "labels is torch.complex128: give real numbers"),
        ({"sequences": SEQUENCES, "labels": LABELS.astype(np.uint64) - 1}, "one whole number from 0 on"),
        ({"images": SEQUENCES}, "holds no array named sequences"),
    ],
)
def test_a_file_that_is_not_fit_is_named_with_what_is_wrong(tmp_path, arrays, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as raised:
        SequenceDataModule(path)
    assert str(path) in str(raised.value)


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
def test_what_is_no_array_of_numbers_is_named(given, name):
    with pytest.raises(DataError, match=f"{name} is no array of numbers"):
        SequenceDataModule(**given)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            SequenceDataModule(tmp_path / name)


@pytest.mark.parametrize(
    "given", [{}, {"path": "x.npz", "sequences": SEQUENCES}, {"path": "x.npz", "labels": LABELS}, {"labels": LABELS}]
)
def test_a_file_or_sequences_and_not_both(given):
    with pytest.raises(SettingError, match="path is"):
        SequenceDataModule(**given)
