"""Files and values at random: each is taken as it is, or refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_tutorial import models, records
from resnet_tutorial.data import CIFAR10
from resnet_tutorial.training import History, Progress, Recipe, get_recipe, read_changes

few = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Where and how a file is damaged: a place in 0..1, and another byte there; no byte: all after it is lost.
damage = st.tuples(st.floats(0, 1, exclude_max=True), st.none() | st.integers(1, 255))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def damaged(content: bytes, how: tuple[float, int | None]) -> bytes:
    place, flip = int(how[0] * len(content)), how[1]
    if flip is None:
        return content[:place]
    return content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]


def one_line(refused: pytest.ExceptionInfo[ValueError], path: Path | None = None) -> None:
    text = str(refused.value)
    assert text and len(text.splitlines()) == 1
    assert path is None or str(path) in text


@pytest.fixture
def network() -> models.ResNet:
    return models.cifar_resnet(8, width=4, num_classes=2)


def make_run(network: torch.nn.Module) -> Progress:
    sgd, scaler = torch.optim.SGD(network.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=False)
    return Progress({"seed": 0}, History(), network, sgd, scaler, None, torch.device("cpu"))


@few
@given(how=damage)
def test_a_damaged_network_is_refused_or_the_same(network, tmp_path, how):
    """A flipped bit that changes predictions and is not noticed."""
    path = models.save_model(tmp_path / "a.safetensors", network, classes=("a", "b"), normalize=CIFAR10)
    path.write_bytes(damaged(path.read_bytes(), how))
    try:
        state = models.load_model(path)[0].state_dict()
    except ValueError:
        with pytest.raises(ValueError) as refused:
            models.load_model(path)
        one_line(refused, path)
        return
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


@few
@given(content=st.binary(max_size=200), ending=st.sampled_from([".safetensors", ".pt", ".json"]))
def test_any_bytes_are_no_network_checkpoint_or_record(network, tmp_path, content, ending):
    """An error of the reader of the format that passes through."""
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    readers = {".safetensors": [models.load_model], ".json": [History.load, records.Run.load]}
    for read in readers.get(ending, [models.load_model, make_run(network).load]):
        with pytest.raises(ValueError) as refused:
            read(path)
        one_line(refused, path)


@few
@given(how=damage)
def test_a_damaged_checkpoint_is_refused_or_the_same(network, tmp_path, how):
    """A run that goes on from other weights than it stopped with."""
    path = tmp_path / "run.pt"
    make_run(network).save(path)
    path.write_bytes(damaged(path.read_bytes(), how))
    again = models.cifar_resnet(8, width=4, num_classes=2)
    run = make_run(again)
    try:
        run.load(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
        return
    assert (run.step, run.history.rows) == (0, [])
    assert all(torch.equal(v, network.state_dict()[name]) for name, v in again.state_dict().items())


@few
@given(
    field=st.sampled_from(["rows", "identity", "step", "seconds", "sums", "model", "optimizer"]), value=values
)
def test_any_field_of_a_checkpoint_is_refused_or_fits(network, tmp_path, field, value):
    """A traceback from deep inside, or a step that is no number."""
    path = tmp_path / "run.pt"
    run = make_run(network)
    run.save(path)
    torch.save(torch.load(path, weights_only=True) | {field: value}, path)
    try:
        run.load(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
        return
    assert type(run.step) is int and run.step >= 0 and math.isfinite(run.seconds) and run.history.rows == []


@few
@given(content=values)
def test_any_json_is_a_history_or_refused(tmp_path, content):
    """`[1]` as a history, found out while it is drawn."""
    path = tmp_path / "history.json"
    path.write_text(json.dumps(content))
    for read in (History.load, records.Run.load):
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
        else:
            assert read == History.load and content == {}


@few
@given(names=st.lists(st.text(max_size=8), min_size=2, max_size=2))
def test_any_class_names_come_back_or_are_refused(network, tmp_path, names):
    """Names that saving takes and loading refuses."""
    path = tmp_path / "a.safetensors"
    try:
        models.save_model(path, network, classes=names, normalize=CIFAR10)
    except ValueError as error:
        assert str(path) in str(error)
        assert not all(names) or names[0] == names[1]
        return
    assert models.load_model(path)[1]["classes"] == names


FIELDS = [name for name in Recipe.__dataclass_fields__ if name != "name"]


@few
@given(field=st.sampled_from(FIELDS), value=values)
def test_any_value_in_a_recipe_is_kept_or_refused(field, value):
    """A recipe that fails in the first step, or later."""
    try:
        recipe = get_recipe("quick").but(**{field: value})
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert getattr(recipe, field) == value
    assert math.isfinite(recipe.lr_at(0, 10)) and recipe.total_steps(10) >= 0


@few
@given(field=st.sampled_from(FIELDS), text=st.text(max_size=8))
def test_any_text_of_a_change_is_read_or_refused(field, text):
    """`--set milestones=x` with a traceback."""
    try:
        get_recipe("quick").but(**read_changes([f"{field}={text}"]))
    except ValueError as error:
        assert str(error)


def test_damage_is_what_it_says() -> None:
    content: Any = b"abcd"
    assert damaged(content, (0.5, None)) == b"ab"
    assert damaged(content, (0.5, 1)) == b"abbd"
