import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation_throughput.py"
spec = importlib.util.spec_from_file_location("evaluation_throughput", SCRIPT)
evaluation_throughput = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evaluation_throughput)

METRICS = {"fid", "kid", "inception_score"}
OURS = METRICS | {"neighbours", "reals_fid", "reals_kid", "reals_neighbours"}


@pytest.fixture
def measure(tmp_path, capsys):
    def measure(*options):
        evaluation_throughput.main(
            ["--num", "40", "20", "--batch_size=10", "--device=cpu", f"--output={tmp_path / 'out.json'}", *options]
        )
        return json.loads((tmp_path / "out.json").read_text())

    return measure


@pytest.fixture
def alike(monkeypatch):
    """Let torch-fidelity start no processes that load pictures."""
    calculate = evaluation_throughput.torch_fidelity.calculate_metrics
    seen = []

    def noted(**options):
        seen.append(options)
        return calculate(**options, save_cpu_ram=True)

    monkeypatch.setattr(evaluation_throughput.torch_fidelity, "calculate_metrics", noted)
    return seen


def test_the_whole_is_measured_with_the_same_pictures_on_both_sides(measure, alike):
    found = measure()
    assert (found["extractor"], found["batch_size"], found["threads"]) == ("mnist", 10, torch.get_num_threads())
    assert [options["batch_size"] for options in alike] == [10, 10, 10]
    assert not any(options["cache"] or options["cuda"] for options in alike)
    assert [(len(options["input1"]), len(options["input2"])) for options in alike] == [(20, 20), (40, 40), (20, 20)]
    assert "seconds_per_picture" not in found
    for result, num in zip(found["results"], (40, 20), strict=True):
        assert (result["num"], result["composed"]) == (num, False)
        extraction = {"building", "extraction_of_reals", "extraction_of_fakes"}
        assert result["seconds"]["ours"].keys() == OURS | extraction
        cached = METRICS | {"neighbours", "cache", "building", "extraction_of_fakes"}
        assert result["seconds"]["ours_cached"].keys() == cached
        assert result["seconds"]["torch_fidelity"].keys() == METRICS | {"building_and_extraction"}
        for side, parts in result["seconds"].items():
            assert result["totals"][side] == pytest.approx(sum(parts.values()), rel=1e-2)
        assert result["ratio"] == pytest.approx(result["totals"]["ours"] / result["totals"]["torch_fidelity"], rel=1e-2)
    assert found["growth"]["num"] == 2


def test_a_composed_total_says_so_and_multiplies_the_rates(measure, alike):
    found = measure("--composed", "--rate_images=25")
    assert alike == []
    assert found["extraction_ratio"]["batches"] == 2
    rates = found["seconds_per_picture"]
    for result in found["results"]:
        assert result["composed"]
        for side, rate in (("ours", "ours"), ("ours_cached", "ours"), ("torch_fidelity", "torch_fidelity")):
            parts = result["seconds"][side]
            assert parts["extraction_of_fakes"] == pytest.approx(result["num"] * rates[rate], rel=1e-2)
            assert ("extraction_of_reals" in parts) == (side != "ours_cached")


def test_rates_of_a_known_size_add_up():
    seconds = {"ours": {"fid": 7.0}, "ours_cached": {"fid": 3.0, "cache": 0.5}, "torch_fidelity": {"fid": 20.0}}
    parts = evaluation_throughput.composed(seconds, {"ours": 0.1, "torch_fidelity": 0.2}, 100)
    runs = [(parts, {"precision_recall": 1.0})]
    result = evaluation_throughput.summary(100, runs, True)
    assert result["totals"] == {"ours": 27.0, "ours_cached": 13.5, "torch_fidelity": 60.0}
    assert (result["ratio"], result["ratio_cached"]) == (0.45, 0.225)


@pytest.mark.parametrize(("asked", "wanted"), [(10, 10), (None, 250)])
def test_our_extractor_has_the_batch_size_asked_for_or_its_own(asked, wanted):
    args = SimpleNamespace(extractor="mnist", weights_path=None, device="cpu", batch_size=asked)
    assert evaluation_throughput.our_extractor(args).block_size == wanted
    assert evaluation_throughput.our_batch_size(args) == wanted


def test_torch_fidelity_gets_the_features_that_we_do():
    images = evaluation_throughput.make_pictures((1, 28, 28), 30, seed=0)
    assert len(images.unique(dim=0)) == 30
    args = SimpleNamespace(extractor="mnist", weights_path=None, device="cpu", batch_size=10)
    ours = evaluation_throughput.our_features(evaluation_throughput.our_extractor(args), images, "cpu")
    network = create_feature_extractor("lightning-gans-mnist", ["logits", "96"], cuda=False, verbose=False)
    theirs = get_featuresdict_from_dataset(evaluation_throughput.Pictures(images), network, 10, False, True, False)
    torch.testing.assert_close(theirs, {"96": ours.features, "logits": ours.logits})


def test_fewer_pictures_than_a_batch_give_no_rate(measure, capsys):
    with pytest.raises(SystemExit):
        measure("--composed", "--rate_images=9")
    assert "--rate_images must be a batch at least: 10" in capsys.readouterr().err


@pytest.mark.slow
def test_inception_with_random_weights(measure):
    found = measure("--extractor=inception", "--num=8", "--composed", "--rate_images=4", "--batch_size=2")
    assert (found["weights"], found["batch_size"]) == ("random", 2)
    assert all(result["composed"] and result["ratio"] > 0 for result in found["results"])
