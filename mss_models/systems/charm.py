"""CHARM (Wen et al., "CHARM: Collaborative Harmonization Across Arbitrary Modalities for Modality-Agnostic Semantic
Segmentation", AAAI 2026).

An encoder shared by all modalities. At each of its four scales a semantic projector per modality and a robustness
evaluator make one map of those that are there, which then asks all of them, window by window, for what it lacks (mutual
perception units, MPU). Training has two paths through the same weights: collaboration (CoL) fuses all modalities,
individual enhancement (InE) lets single ones, fragile ones more often, do the work alone. Inference is CoL.

Numbers of equations and sections are the paper's. There is no public code; what the paper leaves open is in
`CHARM.ours`, with the reasons at the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise
from mss_models.layers.present import encode_present
from mss_models.layers.similarity import pick
from mss_models.layers.tokens import attend, convolve
from mss_models.layers.windows import merge, partition, relative_positions, round_up, shift_mask
from mss_models.losses import check_weights, cross_entropy
from mss_models.system import System

VARIANTS = {"a": "addition", "b": "CoL", "c": "CoL and MPU", "d": "CoL and InE", "e": "all"}
SAMPLINGS = {"softmin": -1.0, "uniform": 0.0, "softmax": 1.0}  # the factor on a modality's robustness
NORMALISATIONS = ("softmax", "sigmoid")
SAMPLED_BY = ("robustness", "scores")  # r_m, or what the evaluator says before it is normalised
UNITS = ("block", "attention")  # an MPU as a block of Swin, or W-MHA alone


class CHARM(System):
    """See the module's docstring. An absent modality is left out.

    variant: a row of the paper's table 2, VARIANTS. (a) is the sum of the encoder's maps, (b) f_CoL = f_se_0, (c) adds
    the MPUs, (d) is (b) with InE, whose map is then the sampled modality's projected one, (e) is the whole.
    sampling: how InE chooses among the modalities, a row of table 3, SAMPLINGS. sampled_by: what it ranks them by; the
    means of `robustness`, of r_m in 0..1, differ little, those of the `scores` before are not bounded.
    unit: `attention` is section 2.3 to the letter, the attention's output without residual and MLP.

    Unpublished and chosen here (docs/systems.md has an ablation): `blocks` per scale (L; 2, the least with which plain
    and shifted windows alternate), the `window`'s side in pixels (8; divides every scale of images in multiples of
    256), `robustness`, how the scores r_m are normalised (softmax over the present modalities at each pixel, so that
    eq. 4 keeps its scale for any number of them; or sigmoid of each), and the loss weights (1 and 1).
    """

    source = "CHARM, AAAI 2026 (no public code)"
    ours = ("2 MPU blocks per scale in 8 x 8 windows, with Swin's norms, position bias and MLP; both paths share them; "
            "robustness soft-maxed over the present modalities; one evaluator for all modalities; projectors start as "
            "the identity in space, without norms or activations; between the scales a strided 3x3 convolution; "
            "loss weights 1 and 1")

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, variant: str = "e", sampling: str = "softmin",
                 sampled_by: str = "robustness", robustness: str = "softmax", unit: str = "block", blocks: int = 2,
                 window: int = 8, col_weight: float = 1.0, ine_weight: float = 1.0) -> None:
        super().__init__(system="charm", modalities=tuple(modalities), num_classes=num_classes, backbone=backbone,
                         head_width=head_width, drop_path=drop_path, dropout=dropout, variant=variant,
                         sampling=sampling, sampled_by=sampled_by, robustness=robustness, unit=unit, blocks=blocks,
                         window=window, col_weight=col_weight, ine_weight=ine_weight)
        for name, value, known in (("variant", variant, VARIANTS), ("sampling", sampling, SAMPLINGS),
                                   ("sampled_by", sampled_by, SAMPLED_BY), ("robustness", robustness, NORMALISATIONS),
                                   ("unit", unit, UNITS)):
            if value not in known:
                raise ValueError(f"{name} = {value!r} is unknown; known: {', '.join(known)}")
        for name, value, most in (("blocks", blocks, 64), ("window", window, 64)):
            if not 1 <= value <= most:  # a file may ask for any number
                raise ValueError(f"{name} = {value}; 1 to {most} are possible")
        check_weights(col_weight=col_weight, ine_weight=ine_weight)
        self.variant, self.col_weight, self.ine_weight = variant, col_weight, ine_weight
        self.backbone = create_backbone(backbone, drop_path)
        channels = self.backbone.channels
        self.scales = nn.ModuleList(
            Scale(one, heads, self.modalities, blocks if variant in "ce" else 0, window, robustness,
                  sampling if variant in "de" else None, sampled_by, unit)
            for one, heads in zip(channels, self.backbone.heads, strict=True) if variant != "a")
        # Ours: the paper names no layer; this is how the encoder itself goes from scale to scale.
        self.steps = nn.ModuleList(nn.Conv2d(finer, coarser, 3, stride=2, padding=1)
                                   for finer, coarser in zip(channels, channels[1:], strict=False) if variant != "a")
        self.steps.apply(initialise)
        self.head = SegFormerHead(channels, head_width, num_classes, dropout)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        fused = self.fuse(images, present, learning=False)
        return resize(self.head(fused).float(), next(iter(images.values())).shape[-2:])

    def fuse(self, images: dict[str, Tensor], present: dict[str, Tensor], learning: bool,
             shares: list[Tensor] | None = None) -> list[Tensor]:
        """f_CoL, 4 x (B, C, h, w). When learning, with InE: f_CoL and after it f_InE, 4 x (2B, C, h, w).

        shares: gets the s_m (M, B) that InE samples by, one per scale.
        """
        # eq. 2: 4 x (M, B, C, h, w), (M, B)
        features, mask = encode_present(self.backbone, images, present, self.dense)
        if self.variant == "a":
            return [one.sum(dim=0) for one in features]  # zero where absent
        complete = not self.dense and all(bool(one.all()) for one in present.values())
        fused: list[Tensor] = []
        for i, (scale, f_m) in enumerate(zip(self.scales, features, strict=True)):
            x = scale(f_m, mask, list(images), learning, complete, shares)  # (B or 2B, h, w, C)
            if i:  # "added between scales to fuse them progressively" (figure 2), each path for itself
                x = x + convolve(self.steps[i - 1], fused[-1])
            fused.append(x)
        return [one.permute(0, 3, 1, 2) for one in fused]

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """L_MaSS, eq. 7. Random (torch's generator): where each context pixel and each InE map comes from.

        The log has, besides the terms, InE's mean shares over the samples, `s1_rgb` to `s4_...` by scale and modality.
        """
        images, present, (height, width) = self.prepare(batch["images"], batch["present"])
        shares: list[Tensor] = []
        fused = self.fuse(images, present, learning=True, shares=shares)
        padded = next(iter(images.values())).shape[-2:]
        logits = resize(self.head(fused).float(), padded)[..., :height, :width]  # both paths as one batch
        names = ("L_CoL", "L_InE")  # eq. 6
        terms = {name: cross_entropy(path, batch["labels"])
                 for name, path in zip(names, logits.split(len(batch["labels"])), strict=False)}
        weights = dict(zip(names, (self.col_weight, self.ine_weight), strict=True))
        value = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        terms |= {f"s{i}_{name}": share for i, s_m in enumerate(shares, 1)
                  for name, share in zip(images, s_m.mean(dim=1), strict=True)}
        return value, {"loss": value.detach()} | {name: term.detach() for name, term in terms.items()}


class Scale(nn.Module):
    """CoL and InE at one scale: maps of the modalities (M, B, C, h, w) -> fused tokens (B, h, w, C).

    sampling: how InE samples (SAMPLINGS), None: without InE.
    """

    def __init__(self, channels: int, heads: int, modalities: Sequence[str], blocks: int, window: int,
                 robustness: str, sampling: str | None, sampled_by: str = "robustness", unit: str = "block") -> None:
        super().__init__()
        self.robustness = robustness
        self.sampling = sampling
        self.sampled_by = sampled_by
        self.projectors = nn.ModuleDict({name: SemanticProjector(channels) for name in modalities})
        # A 1x1 convolution. The paper has "a" robustness evaluator: ours is one for all modalities, so that its scores
        # can be compared, and it reads f_m->se, where they share a space. A bias would cancel in the soft-max.
        self.evaluator = nn.Linear(channels, 1, bias=False).apply(initialise)
        self.units = nn.ModuleList(MPU(channels, heads, modalities, window, window // 2 if i % 2 else 0, unit)
                                   for i in range(blocks))

    def forward(self, f_m: Tensor, mask: Tensor, names: Sequence[str], learning: bool, complete: bool,
                shares: list[Tensor] | None = None) -> Tensor:
        """f_m (M, B, C, h, w) of the modalities `names`, mask (M, B) bool; complete: it is all true.

        Learning with InE gives (2B, h, w, C), f_CoL and after it f_InE; `shares` gets the s_m (M, B) of its sampling.
        """
        projected = torch.stack([self.projectors[name](one) for name, one in zip(names, f_m, strict=True)])
        x = projected.permute(0, 1, 3, 4, 2)  # f_m->se, (M, B, h, w, C)
        scores, r = self.evaluate(x, mask)
        f_se = (r[..., None].to(x.dtype) * x).sum(dim=0)  # f_se_0, eq. 4
        drawn = None
        if learning:
            drawn = reassembly(mask, *x.shape[2:4])  # of f_re (section 2.4), one for all blocks: (B, h, w)
            if self.sampling:
                # Section 2.5 has "f_sa_1 and f_sa_1": ours are two draws, the first asks, the second is asked.
                s_m, (asks, asked) = self.sample(r if self.sampled_by == "robustness" else scores, mask)
                if shares is not None:
                    shares.append(s_m)
                f_se = torch.cat((f_se, pick(x, asks)))  # (2B, h, w, C)
                drawn = torch.cat((drawn, asked[:, None, None].expand_as(drawn)))
        for unit in self.units:
            f_se = unit(f_se, x, names, drawn=drawn, mask=None if learning or complete else mask)
        return f_se

    def evaluate(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of f_m->se (M, B, h, w, C) before they are normalised, -inf where absent, and the robustness r_m,
        in 0..1, 0 where absent: both (M, B, h, w) float32."""
        scores = self.evaluator(x).squeeze(-1).float()
        scores = scores.masked_fill(~mask[:, :, None, None], -torch.inf)
        return scores, scores.softmax(dim=0) if self.robustness == "softmax" else scores.sigmoid()

    @torch.no_grad()
    def sample(self, r: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """By r (M, B, h, w): s_m (M, B), 0 where absent, and two independent draws by it, (2, B) int64.

        s_m = SoftMin of the means of r over the map (eq. 5), or what `sampling` says.
        """
        s_m = (SAMPLINGS[self.sampling] * r.mean(dim=(2, 3))).masked_fill(~mask, -torch.inf).softmax(dim=0)
        return s_m, torch.multinomial(s_m.T, 2, replacement=True).T


def reassembly(mask: Tensor, height: int, width: int) -> Tensor:
    """For every pixel one of its sample's present modalities, equally likely: mask (M, B) -> (B, height, width)."""
    return torch.multinomial(mask.T.float(), height * width, replacement=True).view(-1, height, width)


class SemanticProjector(nn.Sequential):
    """Depth-wise 11x11, 7x7 and 3x3 convolutions, then 1x1 (section 2.4, figure 4): (B, C, h, w) -> the same.

    Ours: no norms or activations, for the paper names none; the depth-wise ones start as the identity, so that training
    starts from the encoder's maps instead of maps blurred at random.
    """

    def __init__(self, channels: int) -> None:
        depthwise = [nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels) for size in (11, 7, 3)]
        super().__init__(*depthwise, nn.Conv2d(channels, channels, 1))
        self.apply(initialise)
        for one in depthwise:
            nn.init.dirac_(one.weight, groups=channels)


class MPU(nn.Module):
    """Mutual perception unit (section 2.3): the semantic map asks the modalities, each window its own place in them.

    In a block of Swin's form (ours; figure 3 is not in the text): norm before attention and MLP, a learned bias for
    every relative position, the same for all modalities, and the same norm for query and context, so that with one
    modality the first block is self-attention. unit: see UNITS; 'attention' has neither residuals nor MLP.
    """

    def __init__(self, channels: int, heads: int, modalities: Sequence[str], window: int, shift: int,
                 unit: str = "block") -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.q = nn.Linear(channels, channels)  # W^Q, shared
        self.kv = nn.ModuleDict({name: nn.Linear(channels, 2 * channels) for name in modalities})  # W_m^K, W_m^V
        self.proj = nn.Linear(channels, channels)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))
        self.mlp = None
        if unit == "block":
            self.norm2 = nn.LayerNorm(channels)
            self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.apply(initialise)

    def forward(self, f_se: Tensor, x: Tensor, names: Sequence[str], mask: Tensor | None = None,
                drawn: Tensor | None = None) -> Tensor:
        """f_se (P B, h, w, C) and the maps x (M, B, h, w, C) of the modalities `names` -> f_se (P B, h, w, C).

        drawn (P B, h, w): which modality each pixel of the context is taken from, by P paths. None (P = 1): the context
        is all modalities, those for which mask (M, B) is true.
        """
        q = self.q(self.norm1(f_se))
        kv = torch.stack([self.kv[name](one) for name, one in zip(names, self.norm1(x), strict=True)])  # eq. 3
        if drawn is not None:
            # A pixel's key and value are made by its own modality's W^K and W^V: choose after the linear layers.
            index = drawn.view(-1, *kv.shape[1:4], 1).expand(-1, -1, -1, -1, kv.shape[-1])
            kv = kv.gather(0, index).flatten(0, 1).unsqueeze(0)  # (M, B, h, w, 2C) -> (1, P B, h, w, 2C)
        heard = self.proj(self._attend(q, kv, mask))
        if self.mlp is None:
            return heard
        f_se = f_se + heard
        return f_se + self.mlp(self.norm2(f_se))

    def _attend(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """W-MHA: q (B, h, w, C), kv (M, B, h, w, 2C), mask (M, B) -> (B, h, w, C), N = window^2."""
        count, batch, height, width, C = *kv.shape[:4], q.shape[-1]
        padded = round_up(height, self.window), round_up(width, self.window)
        down, right = padded[0] - height, padded[1] - width
        q, kv = F.pad(q, (0, 0, 0, right, 0, down)), F.pad(kv, (0, 0, 0, right, 0, down))
        if self.shift:
            q, kv = q.roll((-self.shift,) * 2, dims=(1, 2)), kv.roll((-self.shift,) * 2, dims=(2, 3))
        q = partition(q, self.window).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B nW, heads, N, D)
        kv = partition(kv.flatten(0, 1), self.window)  # (M B nW, N, 2C)
        kv = kv.view(count, q.shape[0], -1, 2, self.heads, C // self.heads).permute(3, 1, 4, 0, 2, 5)
        k, v = kv.flatten(3, 4)  # each (B nW, heads, M N, D)
        neighbours = None
        if self.shift or down or right:
            neighbours = shift_mask(height, width, self.window, self.shift, q.device)
        bias = self._bias(count)  # (heads, N, M, N)
        if neighbours is not None:
            bias = torch.where(neighbours[:, None, :, None], bias, -torch.inf)  # (nW, heads, N, M, N)
        if mask is not None:
            bias = torch.where(mask.T.reshape(batch, 1, 1, 1, -1, 1), bias, -torch.inf)  # (B, nW or 1, heads, N, M, N)
        if bias.ndim > 4:
            bias = bias.expand(batch, q.shape[0] // batch, *bias.shape[-4:]).flatten(0, 1)
        y = attend(q, k, v, bias.reshape(-1, *bias.shape[-4:-2], k.shape[2]).to(q.dtype))  # (B nW, heads, N, D)
        y = merge(y.transpose(1, 2).flatten(2), self.window, *padded)  # (B, h', w', C)
        if self.shift:
            y = y.roll((self.shift,) * 2, dims=(1, 2))
        return y[:, :height, :width]

    def _bias(self, count: int) -> Tensor:
        """The position bias between a window's N pixels and those of `count` modalities: (heads, N, count, N)."""
        bias = self.bias[relative_positions(self.window, self.bias.device)].permute(2, 0, 1)
        return bias[:, :, None].expand(-1, -1, count, -1)
