"""The tables of an evaluation as headers and rows of text, and as Markdown. Percent throughout; '-': not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.report.published import ANY_MODAL, DATA, ROBUSTNESS, Published, is_published_data

Table = tuple[list[str], list[list[str]]]

LABELS = {"average": "Average", "top1": "Top-1", "last1": "Last-1", "clean": "all modalities", "emm": "EMM",
          "emm_e0.1": "EMM E(0.1)", "emm_e0.2": "EMM E(0.2)", "rmm0.25": "RMM 0.25", "rmm0.5": "RMM 0.5",
          "rmm0.75": "RMM 0.75", "rmm0.5_e0.1": "RMM E(0.1)", "rmm0.5_e0.2": "RMM E(0.2)", "nm_low": "NM low",
          "nm_mid": "NM mid", "nm_high": "NM high", "robustseg_mean": "RobustSeg's mean",
          "equiseg_robustness": "EQUISeg's score"}


def number(value: float | None) -> str:
    """A percentage with one digit; '-' for None."""
    return "-" if value is None else f"{value:.1f}"


def exact(value: float | None) -> str:
    """A percentage with two digits, as the papers print them; '-' for None."""
    return "-" if value is None else f"{value:.2f}"


def subset_rows(metrics: Mapping) -> Table:
    """Every subset's mIoU in both conventions and its margin over the class prior; their average, best and worst."""
    prior = metrics["prior"]
    columns = ["miou_present", "margin_present", "miou_published", "margin_published"]
    header = ["modalities", "mIoU (present classes)", "over class prior", "mIoU (published convention)",
              "over class prior"]
    rows = [[subset, *(number(one.get(column)) for column in columns)] for subset, one in metrics["subsets"].items()]
    for field in ("average", "top1", "last1"):
        rows.append([LABELS[field], number(metrics["summary"]["miou_present"][field]), "",
                     number(metrics["summary"]["miou_published"][field]), ""])
    for p in metrics["summary"]["miou_present"]["e"]:
        rows.append([f"E({p})", number(metrics["summary"]["miou_present"]["e"][p]), "",
                     number(metrics["summary"]["miou_published"]["e"][p]), ""])
    if prior:
        rows.append(["class prior", number(prior["miou_present"]), "", number(prior["miou_published"]), ""])
    return header, rows


def robustness_columns(metrics: Mapping) -> dict[str, dict]:
    """Title -> {subsets, summary} of EMM and of every RMM that was run."""
    columns = {"EMM": metrics["emm"]} if "emm" in metrics else {}
    for protocol, title in (("rmm", "RMM"), ("rmm-block", "RMM blocks")):
        columns |= {f"{title} {rate}": one for rate, one in metrics.get(protocol, {}).items()}
    return columns


def robustness_rows(metrics: Mapping, convention: str) -> Table:
    """EMM and RMM per subset of whole modalities, with averages and E(p), in one convention."""
    columns = robustness_columns(metrics)
    first = next(iter(columns.values()))
    rows = [[subset, *(number(one["subsets"][subset][convention]) for one in columns.values())]
            for subset in first["subsets"]]
    for field in ("average", "top1", "last1"):
        rows.append([LABELS[field], *(number(one["summary"][convention][field]) for one in columns.values())])
    for p in first["summary"][convention]["e"]:
        rows.append([f"E({p})", *(number(one["summary"][convention]["e"][p]) for one in columns.values())])
    return ["whole modalities", *columns], rows


def noise_rows(metrics: Mapping) -> Table:
    """NM per level and the composites, in both conventions."""
    rows = [[f"NM {level}", number(one["miou_present"]), number(one["miou_published"])]
            for level, one in metrics.get("nm", {}).items()]
    if "composites" in metrics:
        rows += [[LABELS[name], *(number(metrics["composites"][one][name]) for one in ("miou_present",
                                                                                       "miou_published"))]
                 for name in ("robustseg_mean", "equiseg_robustness")]
    return ["", "mIoU (present classes)", "mIoU (published convention)"], rows


def condition_rows(metrics: Mapping) -> Table:
    """mIoU (present classes) per condition and subset."""
    header = ["condition", *metrics["subsets"]]
    return header, [[name, *(number(scores[subset]["miou_present"]) for subset in metrics["subsets"])]
                    for name, scores in metrics["conditions"].items()]


def class_rows(metrics: Mapping) -> Table:
    """Per class its share of the labelled pixels, and its IoU from each modality alone, from all, of the prior; from
    all also its F1 and accuracy."""
    chosen = {subset: one["iou"] for subset, one in metrics.get("subsets", {}).items()
              if subset.count("+") in (0, len(metrics["modalities"]) - 1)}
    chosen |= {f"NM {level}": one["iou"] for level, one in metrics.get("nm", {}).items()}
    if metrics["prior"]:
        chosen["class prior"] = metrics["prior"]["iou"]
    if whole := list(metrics.get("subsets", {}).values())[-1:]:
        chosen |= {"F1, all": whole[0]["f1"], "accuracy, all": whole[0]["acc"]}
    total = sum(metrics["class_pixels"].values())
    return ["class", "% of pixels", *chosen], [
        [name, f"{100 * pixels / total:.2f}", *(number(one[name]) for one in chosen.values())]
        for name, pixels in metrics["class_pixels"].items() if pixels]


def our_values(metrics: Mapping) -> dict[str, float]:
    """Our figures in the published convention, under the names that published.py uses."""
    convention, values = "miou_published", {}
    if "summary" in metrics:
        values = {name: metrics["summary"][convention][name] for name in ("average", "top1", "last1")}
    if "emm" in metrics:
        values["clean"] = list(metrics["emm"]["subsets"].values())[-1][convention]
    tables = {"emm": metrics.get("emm")} | {f"rmm{rate}": one for rate, one in metrics.get("rmm", {}).items()}
    for name, one in tables.items():
        if one:
            values[name] = one["summary"][convention]["average"]
            values |= {f"{name}_e{p}": value for p, value in one["summary"][convention]["e"].items()}
    values |= {f"nm_{level}": one[convention] for level, one in metrics.get("nm", {}).items()}
    return values | metrics.get("composites", {}).get(convention, {})


def published_rows(metrics: Mapping) -> dict[str, Table]:
    """Title -> our figures beside the published ones of the data set whose classes these are."""
    ours, data = our_values(metrics), DATA.get(metrics["label_set"])
    tables = {}
    if "subsets" in metrics and (theirs := [one for one in ANY_MODAL if one.data == data]):
        tables["any subset"] = _beside(ours, theirs, ["average", "top1", "last1"])
        if theirs := [one for one in theirs if set(one.subsets) == set(metrics["subsets"])]:
            header = ["method", "backbone", *metrics["subsets"]]
            own = {subset: one["miou_published"] for subset, one in metrics["subsets"].items()}
            tables["every subset"] = header, [
                ["this network", "", *(exact(own[subset]) for subset in own)],
                *([one.method, one.backbone, *(exact(one.subsets[subset]) for subset in own)] for one in theirs)]
    if robust := [one for one in ROBUSTNESS if one.data == data]:
        columns = [name for name in LABELS if name in ours and any(name in one.values for one in robust)]
        if columns:
            tables["damaged modalities"] = _beside(ours, robust, columns)
    return tables


def _beside(ours: Mapping[str, float], theirs: Sequence[Published], columns: Sequence[str]) -> Table:
    header = ["method", "backbone", *(LABELS[name] for name in columns), "source"]
    return header, [["this network", "", *(exact(ours.get(name)) for name in columns), ""],
                    *([one.method, one.backbone, *(exact(one.values.get(name)) for name in columns), one.source]
                      for one in theirs)]


def frames_text(metrics: Mapping) -> str:
    """'96 of the 192 frames of split test, evenly spread'."""
    frames, whole = metrics["frames"], metrics["frames_in_split"]
    if frames == whole:
        return f"all {frames} frames of split {metrics['split']}"
    return f"{frames} of the {whole} frames of split {metrics['split']}, evenly spread"


def source_text(metrics: Mapping) -> str:
    """'DELIVER', or 'a tree in DELIVER's layout' for a recording that is not the public data set itself."""
    name = metrics["dataset"]
    return f"a tree in {name}'s layout" if name in DATA.values() and not is_published_data(metrics) else name


def skipped_text(metrics: Mapping) -> str:
    """How many frames each subset was not scored on."""
    return ("Not counted are frames in which a subset's sensors gave nothing: "
            + ", ".join(f"{frames} for {subset}" for subset, frames in metrics["skipped"].items()) + ".")


def markdown(metrics: Mapping) -> str:
    """The tables as Markdown."""
    parts = [f"{frames_text(metrics).capitalize()}, model `{metrics['model_id']}`, seed {metrics['seed']}. mIoU and "
             "IoU in percent."]
    if "subsets" in metrics:
        parts.append(_markdown(*subset_rows(metrics)))
        if metrics["skipped"]:
            parts.append(skipped_text(metrics))
    if robustness_columns(metrics):
        parts += ["mIoU of the present classes:", _markdown(*robustness_rows(metrics, "miou_present"))]
    if "nm" in metrics:
        parts.append(_markdown(*noise_rows(metrics)))
    if "conditions" in metrics:
        parts.append(_markdown(*condition_rows(metrics)))
    parts.append(_markdown(*class_rows(metrics)))
    return "\n\n".join(parts) + "\n"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |"
                     for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows))
