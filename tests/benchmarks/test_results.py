import json

import numpy as np
import pytest
import results
import yaml

PROTOCOL = {"extractor": "mnist", "weights_sha256": "0" * 64, "num_samples": 100, "split": "train"}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def record(step, scores, protocol=PROTOCOL, stage="val"):
    versions = {"lightning_gans": "0.1.0", "torch": "2.15.0"}
    about = {"versions": versions, "date": "2026-11-21T10:00:00+00:00"}
    return {"format": 1, "stage": stage, "step": step, "scores": scores, "protocol": protocol, **about}


def make_run(folder, records, seed=0, width=32, **files):
    config = {
        "seed_everything": seed,
        "model": {"class_path": "lightning_gans.DCGAN", "init_args": {"width": width}},
        "data": {"class_path": "lightning_gans.MNISTDataModule", "init_args": {"data_dir": f"/data/{seed}"}},
        "trainer": {"max_epochs": 5, "logger": seed},
        "checkpoint": {"monitor": "val/fid", "mode": "min"},
    }
    write(folder / "config.yaml", yaml.safe_dump(config))
    for each in records:
        write(folder / "metrics" / f"step={each['step']:07d}.json", each)
    for name, content in files.items():
        write(folder / f"{name}.json", content)
    return folder


def make_page(tmp_path, *runs):
    output = tmp_path / "RESULTS.md"
    assert results.main([*map(str, runs), "--output", str(output)]) == 0
    tables, heads = [], None
    for line in output.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            heads = None
        elif heads is None:
            heads = cells
            tables.append([])
        elif set(cells) != {"---"}:
            tables[-1].append(dict(zip(heads, cells, strict=True)))
    return tables


def test_mean_deviation_and_best_over_seeds(tmp_path):
    final, best = [5.5, 6.25, 4.0], [5.0, 6.0, 3.5]
    runs = [
        make_run(tmp_path / f"dcgan/version_{seed}", [record(10, {"fid": low}), record(20, {"fid": high})], seed)
        for seed, (low, high) in enumerate(zip(best, final, strict=True))
    ]
    write(runs[2] / "metrics.csv", "step,val/fid\n10,3.5\n15,2.5\n20,4.0\n")
    scores, _ = make_page(tmp_path, *reversed(runs))
    assert [row["model"] for row in scores] == ["dcgan"] and scores[0]["n"] == "3"
    assert scores[0]["fid"] == f"{np.mean(final):.3f} ± {np.std(final, ddof=1):.3f}"
    assert scores[0]["fid, best"] == f"{np.mean([5, 6, 2.5]):.3f} ± {np.std([5, 6, 2.5], ddof=1):.3f}"


def test_other_protocols_have_their_own_tables_and_other_settings_their_own_rows(tmp_path):
    runs = [
        make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0, "recall": 0.5})], 0),
        make_run(tmp_path / "dcgan/version_1", [record(10, {"fid": 6.0})], 1),
        make_run(tmp_path / "dcgan/version_2", [record(10, {"fid": 7.0})], 2, width=64),
        make_run(tmp_path / "gan/version_0", [record(10, {"fid": 8.0}, PROTOCOL | {"num_samples": 200})], 0),
    ]
    tables = make_page(tmp_path, *runs)[:2]
    named = {row["model"]: row for table in tables for row in table}
    assert named["dcgan (model.width 32)"]["recall"] == "0.5000 (n = 1)" and "gan" in named
    assert sorted(map(len, tables)) == [1, 2]


def test_how_a_run_was_made_and_attached_files(tmp_path):
    fit = {"command": "lightning-gans fit --data.data_dir /a", "hardware": "CPU", "commit": "0" * 40 + "-dirty"}
    whole = [fit | {"seconds": 60, "step": 6, "from_step": 0}, fit | {"seconds": 90, "step": 10, "from_step": 6}]
    digits = {"distance": 0.7, "ratio": 0.05, "precision": 0.9, "recall": 0.7, "label_accuracy": None}
    score = {"scorer": {"sha256": "1"}, "reference": {"mean": 14.0}, "neighbors": 5, "recipe": 1}
    score["files"] = [digits | {"num_samples": 10000}]
    first = make_run(tmp_path / "a/version_0", [record(10, {"fid": 5.0})], run={"fits": whole}, mnist_score=score)
    killed = make_run(tmp_path / "b/version_0", [record(10, {"fid": 5.0})], run={"fits": whole[1:]})
    _, attached, about = make_page(tmp_path, first, killed)
    assert (attached[0]["distance"], attached[0]["ratio"]) == ("0.7000", "0.0500")
    assert about[0]["wall time"] == "2.5 min" and about[0]["command"] == "`lightning-gans fit`"
    assert about[0]["version"] == "lightning_gans 0.1.0 000000000-dirty, torch 2.15.0"
    assert (about[1]["wall time"], about[1]["command"], about[1]["hardware"]) == ("-", "-", "CPU")


@pytest.mark.parametrize(
    "damage", ["config.yaml", "metrics/step=0000010.json", "augment_trial.json", "no scores", "twice"]
)
def test_invalid_runs_are_one_line_and_exit_code_1(tmp_path, capsys, damage):
    runs = [make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0})])]
    if damage == "twice":
        runs.append(make_run(tmp_path / "dcgan/version_1", [record(10, {"fid": 5.0})]))
    elif damage == "no scores":
        (runs[0] / "metrics" / "step=0000010.json").unlink()
    else:
        write(runs[0] / damage, "{}")
    assert results.main([*map(str, runs), "--output", str(tmp_path / "R.md")]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "R.md").exists()
