import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "results.py"
spec = importlib.util.spec_from_file_location("results", SCRIPT)
results = importlib.util.module_from_spec(spec)
sys.modules["results"] = results  # dataclasses look their module up
spec.loader.exec_module(results)

PROTOCOL = {"extractor": "mnist", "weights_sha256": "0" * 64, "num_samples": 100, "split": "train"}
BOUND = {"likelihood": "bernoulli", "iw_samples": 5}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def record(step, scores, protocol=PROTOCOL, stage="val", **about):
    versions = {"lightning_gans": "0.1.0", "torch": "2.15.0"}
    about = {"versions": versions, "date": "2026-11-21T10:00:00+00:00"} | about
    return {"format": 1, "stage": stage, "step": step, "scores": scores, "protocol": protocol, **about}


def make_run(folder, records, seed=0, monitor="val/fid", mode="min", width=32, epochs=5, **files):
    config = {
        "seed_everything": seed,
        "model": {"class_path": "lightning_gans.DCGAN", "init_args": {"width": width}},
        "data": {"class_path": "lightning_gans.MNISTDataModule", "init_args": {"data_dir": f"/data/{seed}"}},
        "trainer": {"max_epochs": epochs, "logger": seed},
        "checkpoint": {"monitor": monitor, "mode": mode},
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
    return output.read_text()


def rows(page):
    """Return the tables of a page, each as a list of rows by column."""
    tables, heads = [], None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            heads = None
        elif heads is None:
            heads = cells
            tables.append([])
        elif set(cells) != {"---"}:
            tables[-1].append(dict(zip(heads, cells, strict=True)))
    return tables


def test_mean_and_standard_deviation_over_seeds_are_numpys(tmp_path):
    final, best = [5.5, 6.25, 4.0], [5.0, 6.0, 3.5]
    runs = [
        make_run(tmp_path / f"dcgan/version_{seed}", [record(10, {"fid": low}), record(20, {"fid": high})], seed)
        for seed, (low, high) in enumerate(zip(best, final, strict=True))
    ]
    (scores, about) = rows(make_page(tmp_path, *runs))
    assert [row["model"] for row in scores] == ["dcgan"]
    assert scores[0]["n"] == "3"
    assert scores[0]["fid"] == f"{np.mean(final):.3f} ± {np.std(final, ddof=1):.3f}"
    assert scores[0]["fid, best"] == f"{np.mean(best):.3f} ± {np.std(best, ddof=1):.3f}"
    assert about[0]["seeds"] == "0, 1, 2"


def test_one_seed_stands_without_a_deviation(tmp_path):
    run = make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0, "fid_class/3": 9.0})])
    (scores, _) = rows(make_page(tmp_path, run))
    assert scores == [{"model": "dcgan", "data": "MNISTDataModule", "n": "1", "fid": "5.000", "fid, best": "5.000"}]


def test_a_score_that_some_runs_lack_says_how_many_have_it(tmp_path):
    runs = [
        make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0, "recall": 0.5})], 0),
        make_run(tmp_path / "dcgan/version_1", [record(10, {"fid": 6.0})], 1),
    ]
    (scores, _) = rows(make_page(tmp_path, *runs))
    assert scores[0]["recall"] == "0.5000 (n = 1)"


@pytest.mark.parametrize("change", [{"num_samples": 200}, {"weights_sha256": "0" * 63 + "1"}, {"extra": None}])
def test_unlike_protocols_never_share_a_table(tmp_path, change):
    runs = [
        make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0})], 0),
        make_run(tmp_path / "dcgan/version_1", [record(10, {"fid": 7.0}, PROTOCOL | change)], 1),
    ]
    first, second, _ = rows(make_page(tmp_path, *runs))
    assert {first[0]["fid"], second[0]["fid"]} == {"5.000", "7.000"}
    assert first[0]["n"] == second[0]["n"] == "1"


def test_the_best_of_a_run_is_of_the_protocol_of_its_table(tmp_path):
    before = record(10, {"fid": 1.0}, PROTOCOL | {"num_samples": 50})
    run = make_run(tmp_path / "dcgan/version_0", [before, record(20, {"fid": 5.0}), record(30, {"fid": 6.0})])
    write(run / "metrics.csv", "step,val/fid\n10,1.0\n20,5.0\n30,6.0\n")
    tables = rows(make_page(tmp_path, run))[:2]
    assert sorted((table[0]["fid"], table[0]["fid, best"]) for table in tables) == [
        ("1.000", "1.000"),
        ("6.000", "5.000"),
    ]


def test_likelihoods_have_their_own_table_and_a_best_of_all_validations(tmp_path):
    vae = make_run(
        tmp_path / "vae/version_0", [record(30, {"elbo": -95.0, "iw_bound": -90.0}, BOUND)], 0, "val/elbo", "max"
    )
    write(vae / "metrics.csv", "step,train/elbo,val/elbo\n10,-120.0,\n10,,-99.0\n20,,-94.0\n30,,-95.0\n")
    gan = make_run(tmp_path / "gan/version_0", [record(10, {"fid": 5.0})])
    page = make_page(tmp_path, vae, gan)
    samples, likelihoods, _ = rows(page)
    assert page.index("## Samples") < page.index("## Likelihoods")
    assert [row["model"] for row in samples] == ["gan"]
    assert (likelihoods[0]["elbo"], likelihoods[0]["elbo, best"]) == ("-95.00", "-94.00")


def test_runs_of_other_settings_are_not_averaged(tmp_path):
    runs = [
        make_run(tmp_path / f"dcgan/version_{seed}", [record(10, {"fid": 5.0 + seed})], seed, width=width)
        for seed, width in enumerate([32, 32, 64])
    ]
    (scores, _) = rows(make_page(tmp_path, *runs))
    assert {row["model"]: row["n"] for row in scores} == {"dcgan (model.width 32)": "2", "dcgan (model.width 64)": "1"}


def test_one_seed_twice_is_refused(tmp_path, capsys):
    runs = [str(make_run(tmp_path / f"dcgan/version_{n}", [record(10, {"fid": 5.0})])) for n in range(2)]
    assert results.main([*runs, "--output", str(tmp_path / "R.md")]) == 1
    assert "are both seed 0 of dcgan" in capsys.readouterr().err
    assert not (tmp_path / "R.md").exists()


def test_a_test_goes_with_the_run_of_its_seed_in_a_table_of_its_own(tmp_path):
    test_protocol = PROTOCOL | {"split": "test"}
    fit = make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0})])
    test = make_run(tmp_path / "dcgan/version_1", [record(10, {"fid": 7.0}, test_protocol, "test")], epochs=None)
    tables = rows(make_page(tmp_path, fit, test))
    assert all(table[0]["model"] == "dcgan" for table in tables)
    assert sorted(table[0]["fid"] for table in tables[:2]) == ["5.000", "7.000"]
    assert [row["seeds"] for row in tables[2]] == ["0"]


def test_tests_are_of_the_seeds_of_their_trainings(tmp_path):
    """Each test folder's own seed is the default one."""
    tests = [record(10, {"fid": 5.0 + seed}, stage="test", run_seed=seed) for seed in (3, 4)]
    runs = [make_run(tmp_path / f"dcgan/version_{test['run_seed']}", [test], 42) for test in tests]
    scores, about = rows(make_page(tmp_path, *runs))
    assert (scores[0]["n"], about[0]["seeds"]) == ("2", "3, 4")


def test_a_test_that_may_be_of_either_of_two_trainings_is_refused(tmp_path, capsys):
    short = make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0})], 0, epochs=5)
    long = make_run(tmp_path / "dcgan/version_1", [record(10, {"fid": 4.0})], 1, epochs=50)
    test = make_run(tmp_path / "dcgan/version_2", [record(10, {"fid": 7.0}, PROTOCOL, "test")])
    assert results.main([*map(str, (short, long, test)), "--output", str(tmp_path / "R.md")]) == 1
    assert "the runs of dcgan differ in trainer.max_epochs" in capsys.readouterr().err


def test_how_a_run_was_made_is_shown_where_it_is_written_down(tmp_path):
    fit = {
        "command": "lightning-gans fit -c dcgan",
        "hardware": "some processor",
        "commit": "0123456789abcdef-dirty",
        "date": "",
    }
    fits = [fit | {"seconds": 60, "images_seen": 500}, fit | {"seconds": 90, "images_seen": 1500}]
    with_it = make_run(tmp_path / "a/version_0", [record(10, {"fid": 5.0})], run={"fits": fits})
    without = make_run(tmp_path / "b/version_0", [record(10, {"fid": 5.0})])
    about = rows(make_page(tmp_path, with_it, without))[-1]
    assert about[0]["images seen"] == "1,500"
    assert about[0]["wall time"] == "2.5 min"
    assert about[0]["version"] == "lightning_gans 0.1.0 012345678-dirty, torch 2.15.0"
    assert about[0]["command"] == "`lightning-gans fit -c dcgan`"
    assert [about[1][name] for name in ("images seen", "wall time", "hardware", "command")] == ["-"] * 4


@pytest.mark.parametrize(
    ("steps", "whole"),
    [
        ([(0, 10)], True),
        ([(0, 6), (6, 10)], True),
        ([(None, 6), (6, 10)], True),  # written before there was a from_step
        ([(6, 10)], False),
        ([(0, 6), (8, 10)], False),
        ([(0, 6)], False),  # the scores are of step 10
    ],
)
def test_a_part_that_was_killed_is_not_left_out_of_the_wall_time(tmp_path, steps, whole):
    fits = [{"seconds": 60, "command": "fit", "hardware": "h", "step": step} for _, step in steps]
    for fit, (from_step, _) in zip(fits, steps, strict=True):
        fit |= {} if from_step is None else {"from_step": from_step}
    run = make_run(tmp_path / "a/version_0", [record(10, {"fid": 5.0})], run={"fits": fits})
    about = rows(make_page(tmp_path, run))[-1][0]
    assert about["wall time"] == (f"{len(fits)}.0 min" if whole else "-")
    assert about["command"] == ("`fit`" if whole else "-")
    assert about["hardware"] == "h"


def test_attached_files_make_tables_of_their_own(tmp_path):
    digits = {"distance": 0.7, "ratio": 0.05, "precision": 0.9, "recall": 0.7, "label_accuracy": 0.995}
    mnist_score = {
        "scorer": {"sha256": "1" * 64},
        "reference": {"mean": 14.0},
        "files": [digits | {"num_samples": 10000}],
        **{"neighbours": 5, "recipe": 1},
    }
    tests = {"frequency": {"statistic": 0.02, "p_value": 0.6}}
    run = make_run(
        tmp_path / "cgan/version_0",
        [],
        mnist_score=mnist_score,
        gan_train={"accuracy": 0.98, "ceiling": {"accuracy": 0.995}, "protocol": {"num_samples": 60000}},
        sines_score={
            "protocol": {"metric": "sines_score", "num_samples": 10},
            "tests": tests,
            "floor": tests,
            "residual": {"samples": [1, 2], "data": [1, 1]},
        },
        modes={"scores": {"modes": 990}, "protocol": {"num_samples": 26000}},
    )
    page = make_page(tmp_path, run)
    modes, score, train, sines, _ = rows(page)
    assert modes[0]["modes"] == "990.00"
    assert (score[0]["distance"], score[0]["ratio"]) == ("0.7000", "0.0500")
    assert [row["accuracy"] for row in train] == ["0.9800", "0.9950"]
    assert [row["frequency statistic"] for row in sines] == ["0.0200", "0.0200"]


def test_the_same_runs_in_any_order_give_the_same_bytes(tmp_path):
    runs = [make_run(tmp_path / f"dcgan/version_{s}", [record(10, {"fid": 5.0 + s / 3})], s) for s in range(3)]
    assert make_page(tmp_path, *runs) == make_page(tmp_path, *reversed(runs))


def break_config(run):
    write(run / "config.yaml", "model: [")


def break_record(run):
    write(run / "metrics" / "step=0000010.json", "{")


def break_rows(run):
    write(run / "metrics.csv", "step,val/fid\n10,much\n")


def break_attached(run):
    write(run / "gan_train.json", {"protocol": {}})


def drop_config(run):
    (run / "config.yaml").unlink()


def drop_scores(run):
    (run / "metrics" / "step=0000010.json").unlink()


def not_finite(run):
    write(run / "metrics" / "step=0000010.json", record(10, {"fid": float("nan")}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (break_config, "config.yaml is damaged"),
        (break_record, "step=0000010.json does not contain scores"),
        (break_rows, "metrics.csv is damaged"),
        (break_attached, "gan_train.json is no file of gan_train"),
        (drop_config, "version_0 is no run folder"),
        (drop_scores, "version_0 has no scores"),
        (not_finite, "not a finite number: fid"),
    ],
)
def test_a_broken_or_missing_file_is_named_in_one_sentence(tmp_path, capsys, damage, named):
    run = make_run(tmp_path / "dcgan/version_0", [record(10, {"fid": 5.0})])
    damage(run)
    assert results.main([str(run), "--output", str(tmp_path / "R.md")]) == 1
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "R.md").exists()


def test_a_command_is_told_without_the_places_of_its_writers_files():
    told = results.portable(
        "lightning-gans fit -c gan_mnist --data.data_dir '/a b' --model.loss hinge --data.data_dir=/c"
    )
    assert told == "lightning-gans fit -c gan_mnist --model.loss hinge"
    assert results.portable(None) is None
