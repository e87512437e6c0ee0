import math
from dataclasses import asdict

import pytest
import torch

from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.attributes import NUM_ROWS, Attributes

VALUES = torch.tensor([[0.0, -30.0], [1.0, 10.0], [1.0, 50.0], [0.0, 20.0]])


@pytest.fixture
def attributes():
    found = Attributes.of(["smiling", "angle"], VALUES)
    return found.with_rows(found.normalize(VALUES))


def test_the_lowest_value_is_0_and_the_highest_is_1(attributes):
    labels = attributes.normalize(VALUES)
    assert labels.tolist() == [[0.0, 0.0], [1.0, 0.5], [1.0, 1.0], [0.0, 0.625]]
    assert attributes.restore(labels).equal(VALUES)
    assert attributes.normalize(torch.tensor([[2.0, 90.0]])).tolist() == [[2.0, 1.5]]  # nothing is clipped


def test_an_attribute_that_all_images_have_or_lack_stays_1_or_0():
    found = Attributes.of(["all", "none"], torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert found.normalize(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0, 0.0]]
    with pytest.raises(DataError) as error:
        Attributes.of(["none", "same"], torch.tensor([[0.0, 7.0], [0.0, 7.0]]))
    assert (error.value.setting, error.value.value) == ("same", 7.0)


def test_rows_are_labels_of_images_in_turn(attributes):
    labels = attributes.normalize(VALUES)
    rows = attributes.in_turn(4)
    assert sorted(rows.tolist()) == sorted(labels.tolist())
    assert attributes.in_turn(7, start=3).equal(rows[[3, 0, 1, 2, 3, 0, 1]])
    assert attributes.in_turn(0).shape == (0, 2)


def test_of_many_rows_some_are_kept():
    labels = torch.rand(3 * NUM_ROWS, 1, generator=torch.Generator().manual_seed(0))
    rows = Attributes.of(["x"], labels).with_rows(labels).in_turn(NUM_ROWS)
    assert len(rows.unique()) == NUM_ROWS
    assert torch.isin(rows, labels).all()
    assert abs(float(rows.mean()) - 0.5) < 0.05


def test_conditions_set_what_they_name(attributes):
    rows = attributes.in_turn(5)
    found = attributes.conditions(["smiling=1", "angle=30, smiling=0"], 5)
    assert found[::2, 0].tolist() == [1.0, 1.0, 1.0]
    assert found[::2, 1].equal(rows[::2, 1])
    assert found[1::2].tolist() == [[0.0, 0.75], [0.0, 0.75]]


@pytest.mark.parametrize(
    "text", ["smiling", "smiling=", "smiling=yes", "angle=nan", "angle=1,,", "smile=1", "angle=1,angle=2", ""]
)
def test_invalid_conditions(attributes, text):
    with pytest.raises(SettingError) as error:
        attributes.conditions([text], 2)
    assert error.value.setting == "--condition"


def test_names_may_contain_signs():
    attributes = Attributes(("a=b",), (0.0,), (2.0,), ((0.0,),))
    assert attributes.conditions(["a=b=1"], 1).tolist() == [[0.5]]


def test_examples_change_one_attribute_at_a_time(attributes):
    rows = attributes.in_turn(3)
    found = attributes.examples(3)
    angles = ["-30", "-10", "10", "30", "50"]
    smiles = ["0", "0.25", "0.5", "0.75", "1"]
    assert [*found] == [*(f"smiling={value}" for value in smiles), *(f"angle={value}" for value in angles)]
    assert found["angle=10"][:, 1].tolist() == [0.5] * 3
    assert found["angle=10"][:, 0].equal(rows[:, 0])


@pytest.mark.parametrize(
    ("low", "high", "second"),
    [
        (0.0, 9.0, "1"),
        (-45.0, 45.0, "-35"),
        (2000.0, 2020.0, "2002.22"),
        (0.001, 0.0019, "0.0011"),
        (1e6, 1.9e7, "3000000"),
    ],
)
def test_examples_of_a_single_attribute_have_10_names(low, high, second):
    found = [*Attributes(("x",), (low,), (high,), ((0.0,),)).examples(1)]
    assert len(found) == 10
    assert found[1] == f"x={second}"


def test_they_are_stored_in_plain_types(attributes):
    assert Attributes.stored(asdict(attributes)) == attributes
    as_json = {
        name: [list(row) for row in value] if name == "rows" else list(value)
        for name, value in asdict(attributes).items()
    }
    assert Attributes.stored(as_json) == attributes
    assert Attributes.stored(None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["one"]},
        {"names": [1, 2]},
        {"lows": None},
        {"rows": []},
        {"rows": [[0.0]]},
        {"rows": [[0.0, math.nan]]},
        {"rows": [1.0]},
        {"highs": ["1", "2"]},
        {"lows": [0.0, 50.0]},
        {"lows": [0.0]},
    ],
)
def test_a_damaged_entry_of_a_checkpoint(attributes, change):
    with pytest.raises(DataError) as error:
        Attributes.stored(asdict(attributes) | change)
    assert error.value.setting == "attributes"
