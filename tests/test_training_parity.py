"""What a network is trained on is what the robot gives it: a recorded bag through the pipeline, beside the lanes that
make the training's images, on the same drive."""

from __future__ import annotations

import numpy as np
import pytest
from boxes import write_checkpoint

from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES
from mss_models.runtime import open_runtime
from mss_perception import messages
from mss_perception.bags import bag_summary, read_bag
from mss_perception.config import Config
from mss_perception.pipeline import Pipeline
from mss_perception.replay import roles_in
from training import synthesize
from training.synthetic import bag
from training.synthetic.drive import Drive
from training.synthetic.lanes import Lanes
from training.synthetic.recorder import Recorder
from training.synthetic.rig import TIMING, Rig

SIZE, SEED, DURATION = 64, 6, 0.6


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "bag"
    arguments = ["--out", str(path), "--format", "bag", "--size", str(SIZE), "--seed", str(SEED), "--weather", "sun"]
    assert synthesize.main([*arguments, "--duration", str(DURATION), "--jobs", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def outputs(recording, tmp_path_factory):
    """The pipeline's, of the camera's frames (the first sets of a bag are opened by whatever sensor comes first)."""
    network = write_checkpoint(tmp_path_factory.mktemp("network") / "net.safetensors", DELIVER_MODALITIES)
    config, found = Config(width=SIZE, height=SIZE), []
    roles = roles_in(bag_summary(recording), config)
    pipeline = Pipeline(config, open_runtime(network, device="cpu", precision="fp32"), found.append, synchronous=True)
    for topic, now_ns, message in read_bag(recording, list(roles)):
        pipeline.poll(now_ns)
        pipeline.receive(roles[topic], message, now_ns)
    pipeline.flush(now_ns)
    pipeline.close()
    frames = [one for one in found if one.t_ref_ns == one.inputs["rgb"].get("stamp")]
    assert len(frames) >= 4 and all(set(one.images) == set(DELIVER_MODALITIES) for one in frames)
    return frames


@pytest.fixture(scope="module")
def lanes():
    return Lanes(Rig.of_size(SIZE), DEFAULT_ENCODINGS)


def test_images_of_the_pipeline_are_those_of_the_training(outputs, lanes):
    seeds = bag.seeds(SEED)
    recorder = Recorder(Drive(seeds, "sun", DURATION + 2 * bag.LEAD_NS * 1e-9), lanes.rig, seeds)
    for output in outputs:
        images, _ = lanes.frame(recorder, output.t_ref_ns)
        for name in ("rgb", "depth", "lidar"):
            assert images[name].any()
            np.testing.assert_array_equal(output.images[name], images[name], err_msg=name)
        totals = [int(one["event"].sum(dtype=np.int64)) for one in (images, output.images)]
        assert abs(totals[0] - totals[1]) < 0.1 * totals[0]  # see the test below


def test_events_of_the_pipeline_are_those_of_the_trainings_lane(recording, outputs, lanes):
    """From the bag's packets: a training frame's event camera starts with its window, the bag's has run on before it,
    so that the residues of their pixels' thresholds differ, and with them single events."""
    packets = [messages.decode_events(message, TIMING["event"].period_ns)
               for _, _, message in read_bag(recording, ["/events"])]
    for output in outputs:
        image = lanes.event(packets, output.t_ref_ns).image
        assert image.any()
        np.testing.assert_array_equal(output.images["event"], image)
