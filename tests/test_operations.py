"""docs/operations.md: its tables are the code's and the shipped network's, and the code reports nothing else."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT

from mss_models import checkpoint as checkpoints
from mss_models.checkpoint import DEFAULT_CHECKPOINT
from mss_perception import operations
from mss_perception.health import REJECTED
from mss_perception.inputs import State
from mss_perception.reference import STATES, TOPIC_VALUES, cell

CODE = {name: ast.parse((ROOT / f"mss_perception/{name}.py").read_text())
        for name in ("collector", "pipeline", "health", "node", "inputs", "ros_diagnostics", "ros_topics")}


def pattern(node: ast.expr) -> str:
    """A text or f-string as the tables write it: <input> for a name, <input>/info ... for a role."""
    if isinstance(node, ast.Constant):
        return node.value
    return "".join(f"<{ast.unparse(part.value)}>" if isinstance(part, ast.FormattedValue) else part.value
                   for part in node.values)


def keys(counter: str) -> set[str]:
    """What is counted under `counter`, wherever in the code."""
    return {pattern(node.slice) for tree in CODE.values() for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(f".{counter}")
            and isinstance(node.slice, (ast.Constant, ast.JoinedStr))}


def contained() -> set[str]:
    """Methods of the node whose exceptions are counted under their names."""
    return {node.name.strip("_") for node in ast.walk(CODE["node"]) if isinstance(node, ast.FunctionDef)
            and any(ast.unparse(one) == "contained" for one in node.decorator_list)}


def test_the_page_is_that_of_the_code_and_of_the_shipped_network():
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert operations.filled(page) == page, \
        "out of date: python -m mss_perception.operations docs/operations.md"


def test_the_shipped_networks_card_says_what_it_has_not_seen():
    assert "synthetic world alone" in checkpoints.load(DEFAULT_CHECKPOINT).card["limits"]


def test_every_warning_that_is_counted_is_explained():
    found = keys("warnings") - {"<name>", "<work.__name__.strip('_')>_errors"}
    found = {name.replace("<name>", "<input>") for name in found} | {f"{name}_errors" for name in contained()}
    roles = {f"{role}_invalid" for role in ("<input>/info", "odom", "tf", "tf_static")}     # of Pipeline.receive
    learnt = {"<input>/info_changed", "odom_ignored", "tf_replaced", "tf_static_replaced"}      # of Sensors.learn
    assert {"<role>_invalid", "<role>_<what>"} <= found
    assert found - {"<role>_invalid", "<role>_<what>"} | roles | learnt == set(operations.WARNINGS)


def test_every_reason_of_a_drop_is_explained():
    found = keys("dropped") | keys("_dropped")
    for node in ast.walk(CODE["pipeline"]):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("output.dropped"):
            found.add(node.value.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._count" and isinstance(
                node.args[0], ast.Constant):
            found.add(node.args[0].value)
    assert found == set(operations.DROPPED)


def test_every_state_and_every_counter_of_an_input_is_explained():
    assert set(operations.STATE_CURES) == set(STATES) == {one.value for one in State}
    counted = keys("counters") & {node.value for tree in (CODE["inputs"],) for node in ast.walk(tree)
                                  if isinstance(node, ast.Constant)}
    counted |= {node.args[1].value for node in ast.walk(CODE["inputs"]) if isinstance(node, ast.Call)
                and ast.unparse(node.func) == "self.discard"} | {"received"} | set(REJECTED)
    explained = {name for names in TOPIC_VALUES for name in names.split(", ")}
    assert counted <= explained and set(operations.COUNTERS) <= explained
    objections = {node.value.value for node in ast.walk(CODE["collector"]) if isinstance(node, ast.Return)
                  and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)}
    assert objections == set(REJECTED)


@pytest.mark.parametrize(("file", "function"), [
    ("health", "_level"), ("health", "_no_output"), ("ros_diagnostics", "publish"), ("ros_topics", "mismatch"),
    ("ros_topics", "loss_warning")])
def test_every_message_of_the_summary_is_explained(file, function):
    """Texts of more than a word, where they are made."""
    node = next(one for one in ast.walk(CODE[file]) if isinstance(one, ast.FunctionDef) and one.name == function)
    within = [part for one in ast.walk(node) if isinstance(one, ast.JoinedStr) for part in one.values]
    texts = [pattern(one) for one in ast.walk(node) if one not in within and (
        isinstance(one, ast.JoinedStr) or isinstance(one, ast.Constant) and isinstance(one.value, str))]
    details = (" in the view of ", "; <name>: ", ast.get_docstring(node) or "none")     # behind one of the messages
    texts = [text for text in texts if len(re.sub(r"<.*?>", "", text).split()) > 1
             and not any(one in text for one in details)]
    unexplained = [text for text in texts if not any(one in text for one in operations.MESSAGES)]
    assert texts and not unexplained


def test_the_tables_of_a_network_are_its_cards():
    iou = {"Road": 90.0, "Pedestrian": 20.0, "Cars": 60.0, "Bus": 30.0, "Sky": 99.0}
    blind = dict.fromkeys(iou, 10.0)
    card = {"scores": {"frames": 3, "split": "val", "precision": "fp32", "miou_present": {"rgb": 40.04, "event": 10.0},
                       "iou": {"rgb": iou | {"Truck": None}, "event": blind | {"Truck": None}}}}
    lines = operations.degraded(card)
    assert "| sensors | mIoU | of the best | road | vehicles | people | good for |" in lines
    assert "| rgb | 40.0 | 100 % | 90 | 45 | 20 | road |" in lines
    assert "| event | 10.0 | 25 % | 10 | 10 | 10 | none of these |" in lines
    assert "vehicles: Cars, Bus; people: Pedestrian." in "\n".join(lines)
    assert lines[-1].endswith("No subset reaches it for vehicles, people.")


def test_a_network_without_such_scores_has_a_page_too():
    scores = {"frames": 3, "split": "val", "precision": "fp32", "miou_present": {"rgb": 40.0, "lidar": 20.0}}
    assert "| lidar | 20.0 | 50 % |" in operations.degraded({"scores": scores})
    assert operations.degraded({}) == ["The shipped network's card holds no scores."]


def test_a_page_without_a_place_for_each_table_is_refused(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- drops -->\nFORMER\n<!-- end -->\n")
    assert operations.main([str(page)]) == 2 and "places for drops; tables: messages" in capsys.readouterr().err
    page.write_text("".join(f"a\n<!-- {name} -->\nFORMER\n<!-- end -->\nb\n" for name in operations.TABLES))
    assert operations.main([str(page)]) == 0
    text = page.read_text()
    assert "FORMER" not in text and text.count("\nb\n") == len(operations.TABLES)
    assert cell(operations.DROPPED["error"][1]) in text
    assert operations.main([str(page)]) == 0 and page.read_text() == text
