"""What a metric is: its words, unit and direction, and the callback that measures it. All tables come from this one.

The report takes words and order from here, W&B the goals of a run's summary, evaluate.py the names of `--metrics`.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple


class Metric(NamedTuple):
    title: str  # {} stands for the part of the name that the pattern leaves open
    note: str = ""
    unit: str = ""
    better: Literal["lower", "higher", ""] = ""  # "" where it is not known


class Choice(NamedTuple):
    callback: str
    options: Mapping[str, Any] = MappingProxyType({})
    of_real_images: bool = False
    of_pictures: bool = True
    metadata: str = ""  # of every sample, that it reads beside the captions; its option `field` may name another


# By name without the stage; a name may be a pattern. In the order of the report.
METRICS = {
    "nll": Metric(
        "Negative log-likelihood",
        "of the true y given x as the data hold them, mean over the test pairs",
        "nats",
        "lower",
    ),
    "nll_natural": Metric(
        "Negative log-likelihood in natural units", "the same of y in the units of its columns", "nats", "lower"
    ),
    "accuracy": Metric("Accuracy", "share of test rows whose most likely class is the label", "", "higher"),
    "conditional_w2": Metric("Conditional W₂", "exact 2-Wasserstein distance at fixed x, mean of probes", "", "lower"),
    "conditional_sw2": Metric("Conditional sliced W₂", "the same over random one-dimensional projections", "", "lower"),
    "conditional_energy": Metric("Conditional energy distance", "unbiased: 0 for equal distributions", "", "lower"),
    "marginal_sw2": Metric(
        "Marginal sliced W₂", "all samples against all true y; blind to the pairing with x", "", "lower"
    ),
    "mmd": Metric("Marginal MMD²", "five Gaussian kernels, unbiased: 0 for equal distributions", "", "lower"),
    "fid": Metric("FID", "Fréchet distance of Inception features; biased upwards on few images", "", "lower"),
    "fd_(.+)": Metric("Fréchet distance, {}", "as the FID, with another network; not an FID", "", "lower"),
    "kid": Metric("KID", "kernel distance of Inception features, unbiased", "", "lower"),
    "kd_(.+)": Metric("Kernel distance, {}", "as the KID, with another network; not a KID", "", "lower"),
    "cmmd": Metric("CMMD", "kernel distance of CLIP embeddings", "", "lower"),
    "cmmd_(.+)": Metric("CMMD, {}", "with another network than the published one", "", "lower"),
    "(.*_)?image_reward": Metric("ImageReward {}", "about N(0, 1) on people's data", "", "higher"),
    "(.*_)?clip_score": Metric("CLIP score {}", "100 cosine of image and caption, not clamped", "", "higher"),
    "(.*_)?hpsv2": Metric("HPSv2 {}", "cosine in a CLIP tuned on people's choices", "", "higher"),
    "(.*_)?pickscore": Metric("PickScore {}", "scaled cosine in a CLIP tuned on people's choices", "", "higher"),
    "(.*_)?aesthetic": Metric("Aesthetic score {}", "of the picture alone, about 1 to 10", "", "higher"),
    "clip_similarity_edited": Metric("CLIP, edited region", "100 cosine of what the mask lets see", "", "higher"),
    "clip_similarity": Metric("CLIP, whole picture", "100 cosine of the edit and its target's caption", "", "higher"),
    "structure_distance": Metric("Structure distance", "of self-similarities in DINO ViT-B/8", "", "lower"),
    "structure_(.+)": Metric("Structure distance, {}", "of self-similarities in another network", "", "lower"),
    "psnr_background": Metric("PSNR of the background", "outside the mask, which is black in both", "dB", "higher"),
    "ssim_background": Metric("SSIM of the background", "outside the mask, which is black in both", "", "higher"),
    "mse_background": Metric("MSE of the background", "outside the mask, of pixels from 0 to 1", "", "lower"),
    "lpips(?:_(.+))?_background": Metric("LPIPS of the background {}", "outside the mask", "", "lower"),
    "psnr_true_edit": Metric("PSNR to the true edit", "of 8-bit pictures", "dB", "higher"),
    "(.*_)?psnr": Metric("PSNR {}", "of 8-bit pictures", "dB", "higher"),
    "(.*_)?ssim": Metric("SSIM {}", "of 8-bit pictures", "", "higher"),
    "(.*_)?lpips(?:_.+)?": Metric("LPIPS {}", "perceptual distance", "", "lower"),
    "(.*_)?dinov2": Metric("DINOv2 cosine {}", "", "", "higher"),
    "(.*_)?attributes_right": Metric("Attributes right {}", "of those asked for, found by a reader", "", "higher"),
    "(.*_)?all_right": Metric("Everything right {}", "share of pictures with all asked attributes", "", "higher"),
    "(.*_)?attributes_log_p": Metric("Attributes, log p {}", "of what is asked, by a reader", "nats", "higher"),
    "(.*_)?readable": Metric(
        "Readable {}", "share of pictures that a reader is as sure of as of real ones", "", "higher"
    ),
    "(?:.*_)?right_(.+)": Metric("Right: {}", "share of pictures, by a reader", "", "higher"),
    "probe_share": Metric("Edits with what is asked", "share of pictures, by the probe of learning", "", "higher"),
    "probe_score": Metric("Score of the probe", "mean probability of what an edit shall bring", "", "higher"),
    "precision": Metric("Precision", "share of generated images among the real ones", "", "higher"),
    "recall": Metric("Recall", "share of real images among the generated ones", "", "higher"),
    "density": Metric("Density", "", "", "higher"),
    "coverage": Metric("Coverage", "", "", "higher"),
    "image_to_text_r(.+)": Metric("Caption found by image, R@{}", "", "", "higher"),
    "text_to_image_r(.+)": Metric("Image found by caption, R@{}", "", "", "higher"),
    "variant_accuracy": Metric("Caption against a changed one", "share of pictures, by chance 0.5", "", "higher"),
    "pair_accuracy(?:_(.+))?": Metric(
        "Pairs right {}", "share in which the better one has the higher reward", "", "higher"
    ),
    "mean_recall": Metric("Mean recall", "of all retrieval rows", "", "higher"),
    "latent_mse": Metric("Latent error", "mean square of encoded and decoded latents against their own", "", "lower"),
    "code_mean_square": Metric("Mean square of codes", "1 for standard normal noise"),
    "relative_error(_w.+)?": Metric("Relative error {}", "of the guided prediction, against two passes", "", "lower"),
    "passes": Metric("Network passes", "of the teacher's network for a picture, oracle and decoder as their share"),
    "passes_p95": Metric("Network passes, 95 %", "what 95 % of the pictures stay within"),
    "seconds_p95": Metric("Latency, 95 %", "what 95 % of the pictures stay within, as their shares of batches", "s"),
    "(.*_)?oracle_auc": Metric(
        "AUC of the oracle {}", "its score of a draft, for whether all that is asked is right", "", "higher"
    ),
    "repaired": Metric("Repaired", "share of pictures that the teacher was asked to repair"),
    "(.+_)?loss": Metric("Loss {}", "", "", "lower"),
}
BESIDE = ("_floor", "_se", "_std")  # endings of numbers that belong to another metric


def _reward(name: str, load: str) -> Choice:
    return Choice("callbacks.RewardCallback", {"name": name, "reward": {"class_path": load}})


READER = {"reader": {"class_path": "fewstep.rewards.attribute_reader.load_attribute_reader"}}
PAIRED = "callbacks.PairedImageCallback"
CHOICES = {  # of evaluate.py --metrics
    "fid": Choice("callbacks.FIDCallback", of_real_images=True),
    "kid": Choice("callbacks.KIDCallback", of_real_images=True),
    "cmmd": Choice("callbacks.CMMDCallback", of_real_images=True),
    "diversity": Choice("callbacks.DiversityCallback", of_real_images=True),
    "clip_score": Choice("callbacks.CLIPScoreCallback"),
    "image_reward": Choice("callbacks.ImageRewardCallback"),
    "hpsv2": _reward("hpsv2", "fewstep.rewards.clip_scores.load_hpsv2"),
    "pickscore": _reward("pickscore", "fewstep.rewards.clip_scores.load_pickscore"),
    "attributes": Choice(
        "callbacks.AttributeCallback",
        READER,
        metadata="attributes",
    ),
    "readable": Choice(
        "callbacks.ReadableCallback",
        READER,
        of_real_images=True,
    ),
    "psnr": Choice(PAIRED, {"metrics": ["psnr"]}, of_real_images=True),
    "ssim": Choice(PAIRED, {"metrics": ["ssim"]}, of_real_images=True),
    "lpips": Choice(PAIRED, {"metrics": ["lpips"]}, of_real_images=True),
    "dinov2": Choice(PAIRED, {"metrics": ["dinov2"]}, of_real_images=True),
    "retrieval": Choice("callbacks.RetrievalMetrics", of_pictures=False),
    "accuracy": Choice("callbacks.AccuracyCallback", of_pictures=False),
    "transport": Choice("callbacks.TransportMetrics", of_pictures=False),
}


def find(name: str) -> tuple[int, Metric] | None:
    """Place in the catalogue and what the metric is, by its name without the stage; None for one that is not in it."""
    for place, (pattern, metric) in enumerate(METRICS.items()):
        if found := re.fullmatch(pattern, name):
            word = (found[1] or "").strip("_") if found.groups() else ""
            return place, metric._replace(title=metric.title.format(word).strip())
    return None


def describe(key: str) -> tuple[int, Metric]:
    """The same by log key; others come last, under their own keys."""
    return find(key.partition("/")[2] or key) or (len(METRICS), Metric(key))


def goal(key: str) -> Literal["min", "max"] | None:
    """Which way a measured value is better; None where that is not known, and for what is not `val/` or `test/`."""
    stage, _, name = key.partition("/")
    found = find(name) if stage in ("val", "test") else None
    return {"lower": "min", "higher": "max"}.get(found[1].better) if found else None  # type: ignore[return-value]
