"""The contract of design.md, for every system: a new system is one more line in SYSTEMS_UNDER_TEST."""

from __future__ import annotations

import itertools

import pytest
import torch

from mss_models.modality import MODALITIES
from mss_models.system import InputError, create
from mss_models.systems import SYSTEMS

SYSTEMS_UNDER_TEST = ["segformer_mean"]
COUNTS = [2, 3, 4]
CLASSES = 5
SIZE = (64, 96)

pytestmark = pytest.mark.parametrize("system", SYSTEMS_UNDER_TEST)


def build(system, count=4, **options):
    torch.manual_seed(0)
    model = create(system=system, modalities=MODALITIES[:count], num_classes=CLASSES, backbone="B0", head_width=32,
                   **options)
    for name, buffer in model.named_buffers():  # statistics as after training, not the neutral 0 and 1
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model.eval()


def random_images(model, batch, size=SIZE, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 3, *size, generator=generator) for name in model.modalities}


def masks(model, *subsets):
    return {name: torch.tensor([name in subset for subset in subsets]) for name in model.modalities}


def subsets_of(modalities):
    return [subset for size in range(1, len(modalities) + 1) for subset in itertools.combinations(modalities, size)]


def test_every_system_is_under_test(system):
    assert set(SYSTEMS_UNDER_TEST) == set(SYSTEMS)
    assert build(system).architecture["system"] == system and build(system).source


@pytest.mark.parametrize("count", COUNTS)
@torch.no_grad()
def test_mixed_subsets_in_one_batch_equal_one_by_one(system, count):
    model = build(system, count)
    subsets = subsets_of(model.modalities)
    images = random_images(model, len(subsets))
    together = model(images, masks(model, *subsets))
    assert together.shape == (len(subsets), CLASSES, *SIZE) and bool(torch.isfinite(together).all())
    for i, subset in enumerate(subsets):
        alone = model({name: images[name][i : i + 1] for name in subset}, masks(model, subset))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
        others = together[[j for j in range(len(subsets)) if j != i]]
        assert bool((others - together[i]).abs().amax(dim=(1, 2, 3)).gt(1e-3).all())  # the mask does something


@torch.no_grad()
def test_what_an_absent_modality_holds_never_matters(system):
    model = build(system)
    subsets = subsets_of(model.modalities)
    present = masks(model, *subsets)
    images = random_images(model, len(subsets))
    expected = model(images, present)
    for poison in (float("nan"), float("inf"), 1e30):
        poisoned = {name: torch.where(present[name].view(-1, 1, 1, 1), image, poison)
                    for name, image in images.items()}
        assert torch.equal(model(poisoned, present), expected)


def test_absent_nan_reaches_neither_loss_nor_gradient(system):
    model = build(system).train()
    images = random_images(model, 2)
    images["rgb"][0] = float("nan")
    images["lidar"][:] = float("nan")
    loss, _ = model.loss({"images": images, "present": masks(model, ("depth", "event"), ("rgb",)),
                          "labels": torch.zeros(2, *SIZE, dtype=torch.long)})
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_eval_is_deterministic_and_inputs_stay_as_they_are(system):
    model = build(system)
    images = random_images(model, 3)
    present = masks(model, model.modalities, ("rgb",), ("depth", "lidar"))
    before = {name: image.clone() for name, image in images.items()}
    first = model(images, present)
    assert torch.equal(first, model(images, present))
    assert images.keys() == before.keys() and all(torch.equal(images[name], before[name]) for name in before)


def test_loss_leaves_the_batch_alone_and_logs_detached_scalars(system):
    model = build(system).train()
    batch = {"images": random_images(model, 2), "present": masks(model, model.modalities, ("depth",)),
             "labels": torch.randint(0, CLASSES, (2, *SIZE))}
    copies = {"images": {k: v.clone() for k, v in batch["images"].items()}, "labels": batch["labels"].clone()}
    loss, logs = model.loss(batch)
    assert loss.ndim == 0 and loss.requires_grad
    assert logs and all(one.ndim == 0 and not one.requires_grad for one in logs.values())
    assert torch.equal(batch["labels"], copies["labels"])
    assert all(torch.equal(batch["images"][name], copies["images"][name]) for name in copies["images"])


@pytest.mark.parametrize("count", COUNTS)
def test_every_trained_parameter_gets_a_gradient(system, count):
    model = build(system, count, drop_path=0.0).train()
    loss, _ = model.loss({"images": random_images(model, 2), "present": masks(model, *[model.modalities] * 2),
                          "labels": torch.randint(0, CLASSES, (2, *SIZE))})
    loss.backward()
    silent = [name for name, p in model.named_parameters()
              if p.requires_grad and (p.grad is None or not bool(p.grad.any()))]
    assert silent == []


@pytest.mark.parametrize("size", [(1, 1), (31, 65), (50, 33), (64, 64)])
@torch.no_grad()
def test_any_size(system, size):
    model = build(system, 2)
    images = random_images(model, 2, size)
    logits = model(images, masks(model, ("rgb",), ("rgb", "depth")))
    assert logits.shape == (2, CLASSES, *size) and bool(torch.isfinite(logits).all())


@torch.no_grad()
def test_padding_is_zeros_at_the_right_and_bottom(system):
    model = build(system, 2)
    images = random_images(model, 1, (50, 70))
    padded = {name: torch.zeros(1, 3, 64, 96) for name in images}
    for name, image in images.items():
        padded[name][..., :50, :70] = image
    present = masks(model, model.modalities)
    torch.testing.assert_close(model(images, present), model(padded, present)[..., :50, :70])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_finite_and_close(system, dtype):
    model = build(system)
    images, present = random_images(model, 2), masks(model, model.modalities, ("lidar",))
    expected = model(images, present)
    rounded = model.to(dtype)(images, present).float()
    assert bool(torch.isfinite(rounded).all())
    assert (rounded - expected).abs().mean() < 0.05 * expected.std()


def test_architecture_rebuilds_the_network(system):
    model = build(system, 3)
    twin = create(**model.architecture)
    twin.load_state_dict(model.state_dict())
    images, present = random_images(model, 1), masks(model, model.modalities)
    with torch.no_grad():
        assert torch.equal(twin.eval()(images, present), model(images, present))


def test_canonical_order_whatever_order_is_given(system):
    model = create(system=system, modalities=("lidar", "rgb"), num_classes=CLASSES, backbone="B0")
    assert model.modalities == ("rgb", "lidar")


def test_a_small_batch_can_be_learned(system):
    torch.manual_seed(0)
    model = create(system=system, modalities=("rgb", "depth"), num_classes=3, backbone="B0", head_width=64,
                   drop_path=0.0, dropout=0.0).train()
    labels = torch.randint(0, 3, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)  # 64 x 64
    images = {"rgb": torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float(),
              "depth": torch.randn(2, 3, 64, 64)}
    batch = {"images": images, "present": masks(model, ("rgb", "depth"), ("rgb",)), "labels": labels}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(images, batch["present"]).argmax(1) == labels).float().mean()
    assert accuracy > 0.9


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
def test_wrong_inputs_are_named(system, change, message):
    model = build(system, 2)
    images, present = change(random_images(model, 2), masks(model, *[model.modalities] * 2))
    with pytest.raises(InputError, match=message):
        model(images, present)


def test_wrong_architectures_are_named(system):
    with pytest.raises(ValueError, match="segformer_men.*known: .*segformer_mean"):
        create(system="segformer_men", modalities=("rgb",), num_classes=5)
    with pytest.raises(ValueError, match="depth_of_field"):
        create(system=system, modalities=("rgb",), num_classes=5, depth_of_field=3)
    with pytest.raises(ValueError, match="sonar"):
        create(system=system, modalities=("sonar",), num_classes=5)
    with pytest.raises(ValueError, match="num_classes = 1"):
        create(system=system, modalities=("rgb",), num_classes=1)


def test_fewer_modalities_are_less_work(system):
    from torch.utils.flop_counter import FlopCounterMode

    model = build(system)
    images, flops = random_images(model, 1), []
    for subset in (("rgb",), model.modalities[:2], model.modalities):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images, masks(model, subset))
        flops.append(counter.get_total_flops())
    assert flops[0] < flops[1] < flops[2] and flops[0] < 0.45 * flops[2]
