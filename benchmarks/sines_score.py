"""Two-sample tests of generated sine waves: do their spectra have the peaks of the data's?

Of each channel of each sequence the spectrum is taken, 16 times as fine as its length gives by itself (the sequence is
filled up with zeros), and its highest peak, by a parabola through the three highest points: where it is, in periods a
sequence, and how high, as an amplitude. The Kolmogorov-Smirnov statistic compares the distributions of both with those
of held-out sequences of ``SinesDataModule`` with its defaults, or of a file. Where sequences have several channels each
is tested by itself, as they may share a frequency: the largest statistic counts, and the smallest p-value times their
number (Bonferroni).

    lightning-gans sample runs/recurrent_gan_sines/version_0/checkpoints/last.ckpt --num_samples 1000 --output s.npz
    python benchmarks/sines_score.py s.npz --json score.json

The npz holds ``sequences``, floats ``(N, C, T)``. ``floor`` is the same test of other sequences of the data.
``residual`` tells how far the sequences are from sine waves: the share of their energy that the best one leaves, as
the median and the 95th percentile, beside that of the data. Exit codes: 0 if no test rejects at 1 %, 3 if one does,
1 if the file is not fit for it, 2 wrong options.
"""

import argparse
import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

VERSION = 1  # raise it when a score changes its meaning
LEVEL = 0.01  # below this p-value a test rejects
FINER = 16


class ScoreError(Exception):
    """What is wrong with a file, in one sentence."""


def load_npz(path: Path) -> np.ndarray:
    """Read ``sequences`` as float64 (N, C, T)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            sequences = arrays["sequences"]
    except FileNotFoundError:
        raise ScoreError(f"{path}: no such file") from None
    except KeyError:
        raise ScoreError(f"{path}: holds no array named sequences") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ScoreError(f"{path}: not a readable npz ({error})") from None
    if sequences.ndim != 3 or 0 in sequences.shape or sequences.shape[2] < 4 or sequences.dtype.kind != "f":
        raise ScoreError(f"{path}: sequences are {sequences.dtype} {sequences.shape}, but floats (N, C, T) are needed")
    if not np.isfinite(sequences).all():
        raise ScoreError(f"{path}: sequences are not all finite")
    return sequences.astype(np.float64)


def held_out(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return test and training sequences of the data module, float64 (num, 1, 32) each."""
    from lightning_gans import SinesDataModule

    data = SinesDataModule(num_sequences=num, num_test=num, val_size=0)
    test, train = (data.images(split)[0].double().numpy() for split in ("test", "train"))
    return test, train


def peaks(sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the spectra of (N, C, T) are highest, in periods a sequence, and how high: both (N, C)."""
    num, channels, steps = sequences.shape
    waves = sequences.reshape(-1, steps)
    spectra = np.abs(np.fft.rfft(waves, FINER * steps)) * 2 / steps
    # Not the ends of the spectrum, where a parabola has no third point.
    places = spectra[:, 1:-1].argmax(axis=1) + 1
    left, top, right = (spectra[np.arange(len(waves)), places + offset] for offset in (-1, 0, 1))
    bend = left - 2 * top + right
    shifts = np.clip(np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < 0), -0.5, 0.5)
    where, how_high = (places + shifts) / FINER, top - (left - right) * shifts / 4
    return where.reshape(num, channels), how_high.reshape(num, channels)


def residuals(sequences: np.ndarray) -> np.ndarray:
    """Return the share of the energy of (N, C, T) that the best sine wave leaves, (N * C,).

    It is the best of those with 0.5 periods or more a sequence, by least squares.
    """
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
    channels = first.shape[1]
    tests = {}
    for name, ours, theirs in zip(("frequency", "amplitude"), peaks(first), peaks(second), strict=True):
        results = [ks_2samp(ours[:, channel], theirs[:, channel]) for channel in range(channels)]
        tests[name] = {
            "statistic": max(float(result.statistic) for result in results),
            "p_value": min(1.0, channels * min(float(result.pvalue) for result in results)),
        }
    return tests


def spread(sequences: np.ndarray) -> list[float]:
    """Return the median and the 95th percentile of the residuals."""
    return [float(value) for value in np.quantile(residuals(sequences), (0.5, 0.95))]


def score(samples: np.ndarray, real: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Score samples against real sequences, and other real ones for comparison, each (N, C, T)."""
    tests = compared(samples, real)
    return {
        "tests": tests,
        "floor": compared(other, real),
        "residual": {"samples": spread(samples), "data": spread(real)},
        "passed": all(test["p_value"] >= LEVEL for test in tests.values()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Two-sample tests of generated sine waves.")
    parser.add_argument("file", type=Path, metavar="NPZ", help="a file of lightning-gans sample")
    parser.add_argument("--num_samples", type=int, default=1000, metavar="N", help="compare N with N (default: 1000)")
    parser.add_argument("--data", type=Path, metavar="NPZ", help="held-out sequences (default: SinesDataModule's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    options = parser.parse_args(arguments)
    if options.num_samples < 2:
        parser.error(f"--num_samples is {options.num_samples}: it must be 2 or more")
    try:
        samples = load_npz(options.file)[: options.num_samples]
        if options.data is None:
            real, other = held_out(options.num_samples)
            data = "SinesDataModule"
        else:
            both = load_npz(options.data)[: 2 * options.num_samples]
            real, other = both[::2], both[1::2]
            data = hashlib.sha256(both.tobytes()).hexdigest()[:16]
        if len(samples) < options.num_samples or len(other) < options.num_samples:
            raise ScoreError(
                f"there are {len(samples)} samples and {len(real) + len(other)} sequences of data, "
                f"but {options.num_samples} and twice as many are compared"
            )
        if samples.shape[1:] != real.shape[1:]:
            raise ScoreError(
                f"{options.file}: sequences are {samples.shape[1:]}, but those of the data {real.shape[1:]}"
            )
        report = {
            "file": str(options.file),
            "num_samples": len(samples),
            "protocol": {"metric": "sines_score", "version": VERSION, "num_samples": len(samples), "data": data},
            **score(samples, real, other),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        text = json.dumps(report, indent=2)
        if options.json is not None:
            try:
                options.json.write_text(text + "\n")
            except OSError as error:
                raise ScoreError(f"{options.json}: cannot be written ({error})") from None
    except ScoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0 if report["passed"] else 3


if __name__ == "__main__":
    sys.exit(main())
