import json

import pytest

from lightning_gans.cli.main import main
from lightning_gans.metrics.protocol import write_scores

RECORD = {"scores": {"fid": 2.0, "recall": 0.5}, "protocol": {"extractor": "mnist", "num_samples": 100}}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def written(name, **changes):
        write_scores(name, RECORD | changes)
        return name

    return written


def test_scores_of_one_protocol_are_laid_side_by_side(written, capsys):
    written("a.json"), written("b.json", scores={"fid": 1.5, "kid": 3.0}, seed=4)
    main(["compare", "a.json", "b.json"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()[3:]] == [
        ["score", "first", "second", "difference"],
        ["fid", "2.0000", "1.5000", "-0.5000"],
    ]


def test_scores_of_two_protocols_are_refused(written, capsys):
    written("a.json"), written("b.json", protocol={"extractor": "inception", "num_samples": 100})
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a.json", "b.json"])
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "different protocols" in lines[0] and lines[1] == "extractor: mnist / inception"


@pytest.mark.parametrize("content", ["", "[]", '{"scores": {}}', json.dumps({**RECORD, "format": 99})])
def test_other_files_are_refused(written, tmp_path, content, capsys):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", written("a.json"), "b.json"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("lightning-gans: b.json")


@pytest.mark.parametrize("value", ['"x"', "null", "true", "NaN", "[1]", "1" * 400])
def test_scores_that_are_not_numbers_are_named(written, tmp_path, value, capsys):
    (tmp_path / "b.json").write_text(f'{{"format": 1, "scores": {{"fid": {value}}}, "protocol": {{}}}}')
    with pytest.raises(SystemExit) as stopped:
        main(["compare", written("a.json"), "b.json"])
    assert stopped.value.code == 1 and capsys.readouterr().err.startswith("lightning-gans: b.json is damaged")


def test_scores_without_a_common_one_are_refused(written, capsys):
    written("a.json"), written("b.json", scores={"kid": 3.0})
    with pytest.raises(SystemExit):
        main(["compare", "a.json", "b.json"])
    assert capsys.readouterr().err == "lightning-gans: a.json and b.json have no score in common.\n"
