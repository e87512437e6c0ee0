import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from lightning_gans import SinesDataModule

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sines_score.py"
spec = importlib.util.spec_from_file_location("sines_score", SCRIPT)
sines_score = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sines_score)


def save(path, **options):
    """Save 500 sequences that neither the script's reals nor its others are."""
    data = SinesDataModule(num_sequences=500, val_size=0, seed=7, **options)
    np.savez(path, sequences=data.images("train")[0].numpy())
    return str(path)


def report(tmp_path, file, *words):
    code = sines_score.main([file, "--num_samples", "500", "--json", str(tmp_path / "score.json"), *words])
    return code, json.loads((tmp_path / "score.json").read_text())


def test_other_sequences_of_the_data_pass(tmp_path, capsys):
    code, found = report(tmp_path, save(tmp_path / "s.npz"))
    assert code == 0 and found["passed"] and found["num_samples"] == 500
    assert json.loads(capsys.readouterr().out) == found
    assert max(found["residual"]["samples"] + found["residual"]["data"]) < 0.001
    assert min(test["p_value"] for test in found["floor"].values()) > 0.01


@pytest.mark.parametrize(
    ("options", "wrong", "right"),
    [
        ({"frequencies": (1.5, 5.0)}, "frequency", "amplitude"),
        ({"amplitudes": (0.1, 0.75)}, "amplitude", "frequency"),
    ],
)
def test_another_distribution_does_not_pass(tmp_path, options, wrong, right):
    code, found = report(tmp_path, save(tmp_path / "s.npz", **options))
    assert code == 3 and not found["passed"]
    assert found["tests"][wrong]["p_value"] < 0.01 < found["tests"][right]["p_value"]


def test_noise_is_no_sine_wave(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (500, 1, 32)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", sequences=noise)
    code, found = report(tmp_path, str(tmp_path / "noise.npz"))
    assert code == 3 and found["residual"]["samples"][0] > 0.5


def test_peaks_are_those_of_a_sine_wave():
    frequencies, amplitudes = np.linspace(4, 12, 9) + 0.3, np.linspace(0.1, 0.9, 9)
    waves = amplitudes[:, None] * np.sin(2 * np.pi * frequencies[:, None] * np.arange(64) / 64 + 1)
    found = sines_score.peaks(waves[:, None])
    assert found[0][:, 0] == pytest.approx(frequencies, abs=0.03)
    assert found[1][:, 0] == pytest.approx(amplitudes, rel=0.05)
    assert sines_score.peaks(np.zeros((2, 1, 8)))[1].tolist() == [[0], [0]]


def test_channels_that_share_a_frequency_are_not_counted_as_many_sequences():
    one, other = (
        SinesDataModule(num_sequences=200, val_size=0, num_channels=5, seed=seed).images("train")[0].double().numpy()
        for seed in (1, 2)
    )
    found, each = sines_score.compared(one, other), sines_score.compared(one[:, :1], other[:, :1])
    assert found["frequency"]["p_value"] > 5 * each["frequency"]["p_value"] / 2 or found["frequency"]["p_value"] == 1
    assert found["frequency"]["statistic"] == pytest.approx(each["frequency"]["statistic"], abs=0.03)
    wrong = one.copy()
    wrong[:, 3] *= 0.5  # one channel alone is too weak
    assert sines_score.compared(wrong, other)["amplitude"]["p_value"] < 0.01


def test_what_was_compared_with_is_part_of_the_protocol(tmp_path):
    file = save(tmp_path / "s.npz")
    sequences = SinesDataModule(num_sequences=1000, val_size=0, seed=3).images("train")[0].numpy()
    protocols = []
    for scale in (1, 0.99):
        np.savez(tmp_path / "data.npz", sequences=sequences * np.float32(scale))
        protocols.append(report(tmp_path, file, "--data", str(tmp_path / "data.npz"))[1]["protocol"])
    protocols.append(report(tmp_path, file)[1]["protocol"])
    assert len({protocol["data"] for protocol in protocols}) == 3
    assert protocols[2] == {"metric": "sines_score", "version": 1, "num_samples": 500, "data": "SinesDataModule"}


def test_residuals_are_the_energy_of_what_is_added():
    source = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * 3 * np.arange(64) / 64)
    added = np.cos(2 * np.pi * 11 * np.arange(64) / 64) * source.uniform(0.1, 0.5, (20, 1))  # orthogonal to it
    share = (added**2).sum(1) / ((added + wave) ** 2).sum(1)
    assert sines_score.residuals((wave + added)[:, None]) == pytest.approx(share, abs=0.002)


def test_a_file_of_the_users_own_data(tmp_path):
    own = {"num_steps": 24, "frequencies": (2.0, 6.0)}
    data = SinesDataModule(num_sequences=1000, val_size=0, **own).images("train")[0].numpy()
    np.savez(tmp_path / "data.npz", sequences=data)
    code, _ = report(tmp_path, save(tmp_path / "s.npz", **own), "--data", str(tmp_path / "data.npz"))
    assert code == 0


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (np.zeros((500, 32), np.float32), "sequences are float32 (500, 32)"),
        (np.zeros((500, 1, 32), np.uint8), "sequences are uint8 (500, 1, 32)"),
        (np.full((500, 1, 32), np.nan), "not all finite"),
        (np.zeros((20, 1, 32)), "there are 20 samples"),
        (np.zeros((500, 1, 16)), "sequences are (1, 16), but those of the data (1, 32)"),
    ],
)
def test_unfit_files_are_one_sentence_and_exit_code_1(tmp_path, capsys, sequences, message):
    np.savez(tmp_path / "s.npz", sequences=sequences)
    assert sines_score.main([str(tmp_path / "s.npz"), "--num_samples", "500"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_file(tmp_path, capsys):
    assert sines_score.main([str(tmp_path / "s.npz")]) == 1
    assert "no such file" in capsys.readouterr().err
