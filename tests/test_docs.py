"""What the documents tell a user to write must work."""

from __future__ import annotations

import importlib.util
import re
import textwrap

import numpy as np
import pytest
from conftest import ROOT

from mss_perception import calibration, policy, reference
from mss_perception.config import Config


def indented_block(text: str, start: str) -> str:
    """The indented block that begins with a line starting with `start`."""
    match = re.search(rf"^    {re.escape(start)}.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(match[0])


@pytest.mark.parametrize("page", ["docs/install.md", "docs/calibration.md"])
def test_the_calibration_example_loads(tmp_path, page):
    path = tmp_path / "calibration.yaml"
    path.write_text(indented_block((ROOT / page).read_text(), "cameras:"))
    known = calibration.load(path)
    assert known.cameras["rgb"].width == 1280
    for _, _, T in known.extrinsics:
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)


def test_the_rotation_of_the_calibration_page_looks_straight_ahead(tmp_path):
    path = tmp_path / "calibration.yaml"
    path.write_text(indented_block((ROOT / "docs/calibration.md").read_text(), "cameras:"))
    T, = (T for _, child, T in calibration.load(path).extrinsics if child == "camera_optical")
    np.testing.assert_allclose(T[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-9)     # its axis points forward,
    np.testing.assert_allclose(T[:3, :3] @ [1, 0, 0], [0, -1, 0], atol=1e-9)    # its right to the right


OPTIONAL = ("tf2_msgs", "vision_msgs", "event_camera_msgs")
OF_EVERY_NODE = ("rcl_interfaces/", "lifecycle_msgs/", "rosgraph_msgs/", "type_description_interfaces/")
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_modules_and_options_that_exist(page):
    """Every `python -m ours --option` of the pages, a line that ends in a backslash with its next."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    ours = r"(?:mss_perception|mss_models|training|benchmarks|fuzz)"
    for module, rest in re.findall(rf"python -m ({ours}[\w.]*)([^\n`]*)", text):
        path = ROOT / module.replace(".", "/")
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__main__.py"
        assert source.is_file(), f"{page}: python -m {module}"
        if module == "mss_perception.node":     # its options are ROS's
            continue
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest.partition("#")[0]):
            assert f'"{option}"' in source.read_text(), f"{page}: python -m {module} has no {option}"


def test_generated_pages_are_those_of_the_declarations():
    for name, page in reference.PAGES.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page(Config()), \
            f"docs/{name} is out of date: python -m mss_perception.reference docs"


def test_every_parameter_is_documented():
    text = reference.parameters_page(Config())
    for name, _, declaration in Config().parameters():
        owner, _, last = name.rpartition(".")
        assert f"| `{'<input>.' if owner else ''}{last}` |" in text, name
        assert reference.cell(declaration.metadata["description"]) in text, name
    assert all(line.replace("\\|", "").count("|") in (0, 7) for line in text.splitlines()), "a table is broken"


@pytest.fixture(scope="module")
def running(tmp_path_factory, request):
    """A peer of the real node `mss_perception`, which has put out sets with LiDAR and diagnostics."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: no node to compare with")
    import boxes
    import ros_peer

    folder, peer = tmp_path_factory.mktemp("node"), ros_peer.Peer()
    request.addfinalizer(peer.close)
    network = boxes.write_checkpoint(folder / "network.safetensors")
    node = ros_peer.start_node(folder, peer.context.get_domain_id(), f"checkpoint:={network}", "threads:=1")
    request.addfinalizer(lambda: node.__exit__())
    node.wait_for("mss_perception]: active", 90)
    peer.listen("modality_mask")
    peer.connect("image", "camera_info", "points")
    assert peer.until(lambda: any(peer.summary(stamp).get("lidar") == "1" for stamp in peer.got["modality_mask"])
                      and len(peer.diagnostics) > 2, act=lambda: peer.points(peer.camera()))
    return peer


def test_the_policy_allows_what_a_running_node_does_and_nothing_else(running):
    absent = {"/tf", "/tf_static"} if importlib.util.find_spec("tf2_msgs") is None else set()
    absent |= {"~/label_info"} if importlib.util.find_spec("vision_msgs") is None else set()
    absent.add("/clock")                            # under use_sim_time only
    graph = {kind: {ours(name) for name, _ in getattr(running.node, f"get_{kind}_names_and_types_by_node")(
        "mss_perception", "/")} for kind in ("subscriber", "publisher", "service")}
    allowed = {"subscriber": policy.subscribed(Config()), "publisher": policy.published(Config()),
               "service": policy.services()}
    for kind, names in allowed.items():
        expected = {name if name.startswith(("/", "~")) else f"/{name}" for name in names} - absent
        assert graph[kind] == expected, kind
    assert not running.node.get_client_names_and_types_by_node("mss_perception", "/")


def ours(name: str) -> str:
    """A name in the graph as the page writes it."""
    return name.replace("/mss_perception/", "~/")


def test_the_topics_page_is_what_a_running_node_shows(running):
    """Topics, types, QoS, services and the names of diagnostic values, against the graph."""
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    absent = {name for name in OPTIONAL if importlib.util.find_spec(name) is None}
    for side, documented in (("subscriber", reference.subscribed(Config())), ("publisher", reference.PUBLISHED)):
        wanted = {one.name if one.name.startswith("~") else "/" + one.name.lstrip("/"): one
                  for one in documented if one.needs not in absent}
        graph = getattr(running.node, f"get_{side}_names_and_types_by_node")("mss_perception", "/")
        assert {ours(name): kinds[0] for name, kinds in graph if not kinds[0].startswith(OF_EVERY_NODE)} \
            == {name: one.type for name, one in wanted.items()}
        ends_of = getattr(running.node, f"get_{side.replace('scriber', 'scription')}s_info_by_topic")
        for name, one in wanted.items():
            end, = (end for end in ends_of(name.replace("~/", "/mss_perception/")) if end.node_name == "mss_perception")
            qos = end.qos_profile
            assert (qos.reliability == ReliabilityPolicy.BEST_EFFORT) == (one.qos == reference.SENSOR_QOS), name
            assert (qos.durability == DurabilityPolicy.TRANSIENT_LOCAL) == (one.qos == reference.LATCHED_QOS), name

    services = {ours(name) for name, _ in running.node.get_service_names_and_types_by_node("mss_perception", "/")}
    assert services - {"~/get_type_description"} == {name for names in reference.SERVICES for name in names.split(", ")}

    # Every value that is reported is explained.
    mask = list(running.got["modality_mask"].values())[-1]
    reported = [(reference.MASK_VALUES, mask.status[0])]
    reported += [(reference.MASK_INPUT_VALUES, one) for one in mask.status[1:]]
    for one in running.diagnostics[-1].status:
        summary = one.name == "mss_perception: segmentation"
        reported.append((reference.SUMMARY_VALUES if summary else reference.TOPIC_VALUES, one))
    def pattern(name: str) -> str:
        return re.sub(r"<\w+>", lambda hole: inputs if hole[0] == "<input>" else r"[\w/]+", name.replace(".", r"\."))

    inputs = f"({'|'.join(Config().inputs)})"
    for explained, one in reported:
        known = re.compile("|".join(pattern(name) for names in explained for name in names.split(", ")))
        unknown = [value.key for value in one.values if not known.fullmatch(value.key)]
        assert not unknown, f"{one.name}: {unknown} are not explained in mss_perception/reference.py"
