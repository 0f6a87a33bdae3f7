"""The contract of design.md, for every system: a new system is one more line in CASES."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mss_models import checkpoint
from mss_models.labels import LabelSet
from mss_models.modality import DEFAULT_ENCODINGS, MODALITIES
from mss_models.system import InputError, create
from mss_models.systems import SYSTEMS
from mss_models.systems.anyseg import Student


@dataclass(frozen=True)
class Case:
    """A system with the options under test. `zero_filled`: an absent modality is zeros; else it is left out."""

    system: str
    options: dict = field(default_factory=dict)
    zero_filled: bool = False
    variant: str = ""  # what the options amount to, for the test's name

    def __str__(self) -> str:
        return f"{self.system}-{self.variant}".rstrip("-")


CASES = [
    Case("segformer_mean"),
    Case("cmnext", zero_filled=True),
    Case("stitchfusion", zero_filled=True),
    Case("stitchfusion", {"adapters": ["none", "shared", "undirected", "directed"], "fusion": "ffm"}, zero_filled=True,
         variant="ffm"),
    Case("magic"),
    Case("magic_plus"),
    Case("any2seg"),
    Case("any2seg", {"steps": 2}, variant="two-steps"),
    Case("anyseg"),
    Case("robustseg"),
    Case("robustseg", {"missing": "zero"}, zero_filled=True, variant="zero"),
    Case("equiseg"),
    Case("charm"),
    Case("charm", {"variant": "d", "sampling": "uniform"}, variant="d"),
    Case("geminifusion", zero_filled=True),
]
CLASSES = 5
SIZE = (64, 96)
LABELS = LabelSet("five", tuple("abcde"), ((0, 0, 0),) * CLASSES)

pytestmark = pytest.mark.parametrize("case", CASES, ids=str)


def build(case, count=4, seed=0, **options):
    """The case's B0 network on the first `count` modalities, in eval mode, with weights as after some training."""
    torch.manual_seed(seed)
    model = create(**{"system": case.system, "modalities": MODALITIES[:count], "num_classes": CLASSES,
                      "backbone": "B0", "head_width": 32, **case.options, **options})
    for name, buffer in model.named_buffers():  # statistics: not the neutral 0 and 1
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in model.parameters():  # zero-initialised layers would hide their inputs
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.1)
    if isinstance(model, Student):
        model.learn_from(build(Case("segformer_mean"), count, seed=1, **options))
    return model.eval()


def random_images(model, batch, size=SIZE, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 3, *size, generator=generator) for name in model.modalities}


def masks(model, *subsets):
    return {name: torch.tensor([name in subset for subset in subsets]) for name in model.modalities}


def subsets_of(modalities):
    return [subset for size in range(1, len(modalities) + 1) for subset in itertools.combinations(modalities, size)]


def random_batch(model, *subsets):
    generator = torch.Generator().manual_seed(2)
    return {"images": random_images(model, len(subsets)), "present": masks(model, *subsets),
            "labels": torch.randint(0, CLASSES, (len(subsets), *SIZE), generator=generator)}


def test_every_system_is_under_test(case):
    assert {one.system for one in CASES} == set(SYSTEMS)
    assert build(case).architecture["system"] == case.system and build(case).source


@pytest.mark.parametrize("count", [2, 3, 4])
@torch.no_grad()
def test_mixed_subsets_in_one_batch_equal_one_by_one(case, count):
    model = build(case, count)
    subsets = subsets_of(model.modalities)
    images = random_images(model, len(subsets))
    together = model(images, masks(model, *subsets))
    assert together.shape == (len(subsets), CLASSES, *SIZE) and bool(torch.isfinite(together).all())
    for i, subset in enumerate(subsets):
        alone = model({name: images[name][i : i + 1] for name in subset}, masks(model, subset))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_six_modalities_of_any_kind_without_rgb(case):
    model = build(case, modalities=("depth", "event", "radar", "aolp", "dolp", "nir"))
    subsets = [model.modalities, model.modalities[:1], model.modalities[1::2]]
    images = random_images(model, len(subsets), (32, 64))
    together = model(images, masks(model, *subsets))
    for i, subset in enumerate(subsets):
        alone = model({name: images[name][i : i + 1] for name in subset}, masks(model, subset))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_subset_of_the_same_images_gives_another_output(case):
    model = build(case)
    subsets = subsets_of(model.modalities)
    images = {name: image.expand(len(subsets), -1, -1, -1) for name, image in random_images(model, 1).items()}
    logits = model(images, masks(model, *subsets)).flatten(1)
    distances = torch.cdist(logits, logits, p=torch.inf).fill_diagonal_(1)
    assert bool((distances > 1e-3).all())


@torch.no_grad()
def test_what_an_absent_modality_holds_never_matters(case):
    model = build(case)
    subsets = subsets_of(model.modalities)
    present = masks(model, *subsets)
    images = random_images(model, len(subsets), (32, 64))
    expected = model(images, present)
    for poison in (float("nan"), float("inf"), 1e30):
        poisoned = {name: torch.where(present[name].view(-1, 1, 1, 1), image, poison)
                    for name, image in images.items()}
        assert torch.equal(model(poisoned, present), expected)


@pytest.mark.parametrize("count", [2, 3, 4])
@torch.no_grad()
def test_the_dense_form_is_the_same_function(case, count):
    """That all of it can be traced, without a branch on a mask, is tested by exporting it: test_models_onnx.py."""
    model = build(case, count)
    subsets = subsets_of(model.modalities)
    present, images = masks(model, *subsets), random_images(model, len(subsets), (50, 70))
    expected = model(images, present)
    model.dense = True
    poisoned = {name: torch.where(present[name].view(-1, 1, 1, 1), image, torch.nan) for name, image in images.items()}
    torch.testing.assert_close(model(poisoned, present), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_absent_means_zeros_in_the_systems_that_say_so_and_only_there(case):
    model = build(case, 3)
    subset = model.modalities[1:]
    images = random_images(model, 1)
    absent = model(images, masks(model, subset))
    images[model.modalities[0]].zero_()
    zeros = model(images, masks(model, model.modalities))
    assert torch.allclose(absent, zeros, rtol=1e-5, atol=1e-5) == case.zero_filled


def test_absent_nan_reaches_neither_loss_nor_gradient(case):
    model = build(case).train()
    batch = random_batch(model, ("depth", "event"), ("rgb",))
    batch["images"]["rgb"][0] = float("nan")
    batch["images"]["lidar"][:] = float("nan")
    loss, _ = model.loss(batch)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_eval_is_deterministic_and_inputs_stay_as_they_are(case):
    model = build(case)
    images = random_images(model, 3)
    present = masks(model, model.modalities, ("rgb",), ("depth", "lidar"))
    before = {name: image.clone() for name, image in images.items()}
    first = model(images, present)
    assert torch.equal(first, model(images, present))
    assert images.keys() == before.keys() and all(torch.equal(images[name], before[name]) for name in before)


@torch.no_grad()
def test_no_state_is_kept_between_batches(case):
    model = build(case)
    images, present = random_images(model, 1), masks(model, model.modalities)
    first = model(images, present)
    model(random_images(model, 2, (32, 64), seed=5), masks(model, ("rgb",), ("depth", "lidar")))
    assert torch.equal(first, model(images, present))


def test_loss_leaves_the_batch_alone_and_logs_detached_scalars(case):
    model = build(case).train()
    batch = random_batch(model, model.modalities, ("depth",))
    copies = {"images": {k: v.clone() for k, v in batch["images"].items()}, "labels": batch["labels"].clone()}
    loss, logs = model.loss(batch)
    assert loss.ndim == 0 and loss.requires_grad
    assert logs and all(one.ndim == 0 and not one.requires_grad for one in logs.values())
    assert torch.equal(batch["labels"], copies["labels"])
    assert all(torch.equal(batch["images"][name], copies["images"][name]) for name in copies["images"])


@pytest.mark.parametrize("count", [3, 4])
def test_every_trained_parameter_gets_a_gradient(case, count):
    model = build(case, count, drop_path=0.0).train()
    loss, _ = model.loss(random_batch(model, *[model.modalities] * 2))
    loss.backward()
    silent = [name for name, p in model.named_parameters()
              if p.requires_grad and (p.grad is None or not bool(p.grad.any()))]
    assert silent == []


@pytest.mark.parametrize("size", [(1, 1), (31, 65), (50, 33), (64, 64)])
@torch.no_grad()
def test_any_size(case, size):
    model = build(case, 2)
    images = random_images(model, 2, size)
    logits = model(images, masks(model, ("rgb",), ("rgb", "depth")))
    assert logits.shape == (2, CLASSES, *size) and bool(torch.isfinite(logits).all())


@torch.no_grad()
def test_padding_is_zeros_at_the_right_and_bottom(case):
    model = build(case, 2)
    images = random_images(model, 1, (50, 70))
    padded = {name: torch.zeros(1, 3, 64, 96) for name in images}
    for name, image in images.items():
        padded[name][..., :50, :70] = image
    present = masks(model, model.modalities)
    torch.testing.assert_close(model(images, present), model(padded, present)[..., :50, :70])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_finite_and_close(case, dtype):
    model = build(case)
    images, present = random_images(model, 2), masks(model, model.modalities, ("lidar",))
    expected = model(images, present)
    rounded = model.to(dtype)(images, present).float()
    assert bool(torch.isfinite(rounded).all())
    assert (rounded - expected).abs().mean() < 0.05 * expected.std()


@torch.no_grad()
def test_a_saved_network_loads_as_the_same_function(case, tmp_path):
    model = build(case, 3)
    checkpoint.save(tmp_path / "net.safetensors", model, LABELS, DEFAULT_ENCODINGS, {}, image_size=SIZE, half=False)
    twin = checkpoint.load(tmp_path / "net.safetensors").model
    assert twin.architecture == model.architecture
    images, present = random_images(model, 2), masks(model, model.modalities, ("depth",))
    assert torch.equal(twin(images, present), model(images, present))


def test_canonical_order_whatever_order_is_given(case):
    assert build(case, modalities=("lidar", "rgb")).modalities == ("rgb", "lidar")


def learn(model, batch):
    """The accuracy after as many steps as 95 % need, 200 at most, at a constant learning rate."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    accuracy, step = 0.0, 0
    while accuracy < 0.95 and step < 200:
        for _ in range(10):
            optimizer.zero_grad()
            loss, _ = model.loss(batch)
            loss.backward()
            optimizer.step()
        step += 10
        with torch.no_grad():
            prediction = model(batch["images"], batch["present"]).argmax(1)
        accuracy = (prediction == batch["labels"]).float().mean().item()
    return accuracy


def test_a_small_batch_can_be_learned(case):
    """Dropout off. A teacher has learned the batch before."""
    options = {"num_classes": 3, "drop_path": 0.0, "dropout": 0.0}
    model = build(case, 3, **options).train()
    labels = torch.randint(0, 3, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)  # 64 x 64
    images = random_images(model, 2, (64, 64)) | {"rgb": torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)
                                                  .float()}
    batch = {"images": images, "present": masks(model, *[model.modalities] * 2), "labels": labels}
    if isinstance(model, Student):
        teacher = build(Case("segformer_mean"), 3, seed=1, **options).train()
        assert learn(teacher, batch) >= 0.95
        model.learn_from(teacher)
    assert learn(model, batch) >= 0.95


@pytest.mark.parametrize(("change", "message"), [
    (lambda i, p: (i | {"radar": i["rgb"]}, p), "radar"),
    (lambda i, p: ({}, p), "no image"),
    (lambda i, p: (i, {"rgb": p["rgb"]}), r"present lacks \['depth'\]"),
    (lambda i, p: (i | {"depth": i["depth"][:, :, :32]}, p), r"'depth' has shape \(2, 3, 32, 96\)"),
    (lambda i, p: (i | {"depth": i["depth"][:, :1]}, p), r"'depth' has shape \(2, 1"),
    (lambda i, p: (i | {"rgb": i["rgb"][0]}, p), r"'rgb' has shape \(3, 64, 96\)"),
    (lambda i, p: (i | {"depth": (i["depth"] * 9).to(torch.uint8)}, p), "torch.uint8"),
    (lambda i, p: (i, p | {"depth": p["depth"].float()}), "bool"),
    (lambda i, p: (i, p | {"depth": p["depth"][:1]}), r"bool \(2,\)"),
    (lambda i, p: ({"rgb": i["rgb"]}, p), r"present\['depth'\] is true"),
    (lambda i, p: (i, {name: torch.tensor([True, False]) for name in p}), r"samples \[1\]"),
])
def test_wrong_inputs_are_named(case, change, message):
    model = build(case, 2)
    images, present = change(random_images(model, 2), masks(model, *[model.modalities] * 2))
    with pytest.raises(InputError, match=message):
        model(images, present)


def test_wrong_architectures_are_named(case):
    with pytest.raises(ValueError, match="segformer_men.*known: .*segformer_mean"):
        create(system="segformer_men", modalities=("rgb",), num_classes=5)
    with pytest.raises(ValueError, match="depth_of_field"):
        build(case, depth_of_field=3)
    with pytest.raises(ValueError, match="sonar"):
        build(case, modalities=("rgb", "sonar"))
    with pytest.raises(ValueError, match="num_classes = 1"):
        build(case, num_classes=1)
    with pytest.raises(ValueError, match=r"B9.*B0, B1"):
        build(case, backbone="B9")
    for options, message in (({"head_width": -3}, "negative"), ({"drop_path": 1.0}, "drop_path = 1.0; 0 to below 1"),
                             ({"drop_path": "much"}, "'much'.*linspace")):
        with pytest.raises(ValueError, match=message) as raised:
            build(case, **options)
        assert "\n" not in str(raised.value)


@torch.no_grad()
def test_work_falls_with_the_number_of_modalities_where_absent_ones_are_left_out(case):
    model = build(case)
    images, flops = random_images(model, 1), []
    for subset in (("rgb",), model.modalities[:2], model.modalities):
        with FlopCounterMode(display=False) as counter:
            model(images, masks(model, subset))
        flops.append(counter.get_total_flops())
    if case.zero_filled:
        assert flops[0] <= flops[1] <= flops[2]
    else:
        assert flops[0] < flops[1] < flops[2] and flops[0] < 0.45 * flops[2]
