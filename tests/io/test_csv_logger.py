import shutil

import pytest

from lightning_gans import DataError
from lightning_gans.io.csv_logger import RunLogger, _Rows


@pytest.mark.parametrize("what", [".", "metrics.csv"])
def test_a_run_whose_folder_or_file_is_removed_ends_with_an_error(tmp_path, what):
    logger = RunLogger(str(tmp_path), "runs", "one")
    logger.log_metrics({"loss": 1.0}, 1)
    logger.save()
    folder = tmp_path / "runs" / "one"
    if what == ".":
        shutil.rmtree(folder)
    else:
        (folder / what).unlink()
    with pytest.raises(DataError) as caught:
        logger.finalize("success")
    assert caught.value.setting == str(folder / what)
    with pytest.raises(DataError):
        logger.state_dict()


def test_a_folder_that_is_removed_before_the_first_row_is_not_made_again(tmp_path):
    logger = RunLogger(str(tmp_path), "runs", "one")
    logger.log_metrics({"loss": 1.0}, 1)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(DataError):
        logger.save()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("row", ["1,2,3", "1"])
def test_a_row_with_other_cells_is_dropped(tmp_path, row):
    (tmp_path / "metrics.csv").write_text(f"loss,step\n0.5,1\n{row}\n")
    _Rows(tmp_path).keep(None, 5)
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss,step", "0.5,1"]
    (tmp_path / "metrics.csv").write_bytes(b"loss,step\n\xff,1\n")
    with pytest.raises(DataError, match="is not a table of metrics"):
        _Rows(tmp_path).keep(None, 5)
