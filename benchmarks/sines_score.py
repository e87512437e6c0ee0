"""Two-sample tests of generated sine waves: do their spectra have the peaks of the data's?

The spectrum of each channel is computed 16 times as fine as the length of the sequence gives (it is padded with zeros),
and its highest peak from a parabola through the three highest points: its place, in periods per sequence, and its
height, as an amplitude. The Kolmogorov-Smirnov statistic compares the distributions of both with those of held-out
sequences of ``SinesDataModule`` with its defaults. Several channels are tested one by one, as they may
share a frequency: the largest statistic counts, and the smallest p-value times their number (Bonferroni).

    lightning-gans sample runs/recurrent_gan_sines/version_0/checkpoints/last.ckpt --num_samples 1000 --output s.npz
    python benchmarks/sines_score.py s.npz --json score.json

The npz contains ``sequences``, floats ``(N, C, T)``. ``floor`` is the same test of other sequences of the data.
``residual`` is the share of the energy of a sequence that the best sine wave leaves, as the median and the 95th
percentile, of samples and of data. Prints JSON. Exit codes: 0 if no test rejects at 1 %, 3 if one does, 1 for an
invalid file, 2 for invalid options.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import read_npz, run
from scipy.stats import ks_2samp

from lightning_gans import DataError, SinesDataModule

VERSION = 1  # increase it when a score changes its meaning
LEVEL = 0.01  # below this p-value a test rejects
FINER = 16


def read_sequences(path: Path) -> np.ndarray:
    """Read ``sequences`` as float64 (N, C, T)."""
    sequences, _ = read_npz(path, "sequences")
    if sequences.ndim != 3 or 0 in sequences.shape or sequences.shape[2] < 4 or sequences.dtype.kind != "f":
        raise DataError(f"{path}: sequences are {sequences.dtype} {sequences.shape}, not floats (N, C, T).")
    if not np.isfinite(sequences).all():
        raise DataError(f"{path}: sequences are not all finite.")
    return sequences.astype(np.float64)


def held_out(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return test and training sequences of the data module, float64 (num, 1, 32) each."""
    data = SinesDataModule(num_sequences=num, num_test=num, val_size=0)
    test, train = (data.images(split)[0].double().numpy() for split in ("test", "train"))
    return test, train


def peaks(sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the spectra of (N, C, T) are highest, in periods per sequence, and how high: both (N, C)."""
    num, channels, steps = sequences.shape
    waves = sequences.reshape(-1, steps)
    spectra = np.abs(np.fft.rfft(waves, FINER * steps)) * 2 / steps
    places = spectra[:, 1:-1].argmax(axis=1) + 1  # not the ends, where a parabola has no third point
    left, top, right = (spectra[np.arange(len(waves)), places + offset] for offset in (-1, 0, 1))
    bend = left - 2 * top + right
    shifts = np.clip(np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < 0), -0.5, 0.5)
    where, how_high = (places + shifts) / FINER, top - (left - right) * shifts / 4
    return where.reshape(num, channels), how_high.reshape(num, channels)


def residuals(sequences: np.ndarray) -> np.ndarray:
    """Return the share of the energy of (N, C, T) that the best sine wave of 0.5 periods or more leaves, (N * C,)."""
    waves = sequences.reshape(-1, sequences.shape[2])
    steps = waves.shape[1]
    angles = 2 * np.pi * np.arange(steps) / steps
    best = np.zeros(len(waves))
    for frequency in np.arange(0.5, steps / 2, 1 / 50):
        basis, _ = np.linalg.qr(np.stack([np.sin(frequency * angles), np.cos(frequency * angles)], axis=1))
        best = np.maximum(best, ((waves @ basis) ** 2).sum(axis=1))
    energy = (waves**2).sum(axis=1)
    return 1 - np.divide(best, energy, out=np.zeros_like(best), where=energy > 0)


def compared(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Return the two tests of two sets of sequences."""
    channels, tests = first.shape[1], {}
    for name, ours, theirs in zip(("frequency", "amplitude"), peaks(first), peaks(second), strict=True):
        results = [ks_2samp(ours[:, channel], theirs[:, channel]) for channel in range(channels)]
        tests[name] = {
            "statistic": max(float(result.statistic) for result in results),
            "p_value": min(1.0, channels * min(float(result.pvalue) for result in results)),
        }
    return tests


def make_report(options: argparse.Namespace) -> dict[str, Any]:
    num = options.num_samples
    samples, (real, other) = read_sequences(options.file)[:num], held_out(num)
    if samples.shape != real.shape:
        raise DataError(f"{options.file}: sequences are {samples.shape}, not {real.shape}.", setting=str(options.file))
    tests = compared(samples, real)
    residual = {
        name: np.quantile(residuals(values), (0.5, 0.95)).tolist()
        for name, values in {"samples": samples, "data": real}.items()
    }
    return {
        "file": str(options.file),
        "num_samples": num,
        "protocol": {"metric": "sines_score", "version": VERSION, "num_samples": num, "data": "SinesDataModule"},
        "tests": tests,
        "floor": compared(other, real),
        "residual": residual,
        "passed": all(test["p_value"] >= LEVEL for test in tests.values()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="NPZ", help="a file of lightning-gans sample")
    parser.add_argument("--num_samples", type=int, default=1000, metavar="N", help="compare N with N (default: 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    options = parser.parse_args(arguments)
    if options.num_samples < 2:
        parser.error(f"--num_samples is {options.num_samples}: it must be 2 or more")
    sys.exit(0 if run(make_report, options)["passed"] else 3)


if __name__ == "__main__":
    main()
