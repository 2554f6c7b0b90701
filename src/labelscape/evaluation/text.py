"""Scores for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def print_scores(scores: Mapping[str, dict], names: Sequence[str]) -> None:
    """Print one or several models' scores side by side: IoU and F1 per class, then OA, mIoU and mean F1; in per cent."""
    if not scores:
        return
    width = max(14, *(len(name) + 2 for name in names))
    print(f"{'%':<{width}}" + "".join(f"{model:>20}" for model in scores))
    print(f"{'':<{width}}" + f"{'IoU':>12}{'F1':>8}" * len(scores))
    for i, name in enumerate(names):
        print(f"{name:<{width}}" + "".join(f"{percent(s['classes'][i]['iou']):>12}{percent(s['classes'][i]['f1']):>8}" for s in scores.values()))
    for title, key in (("mean", None), ("OA", "overall_accuracy"), ("kappa x 100", "kappa")):
        if key is None:
            cells = "".join(f"{percent(s['mean_iou']):>12}{percent(s['mean_f1']):>8}" for s in scores.values())
        else:
            cells = "".join(f"{percent(s[key]):>12}{'':>8}" for s in scores.values())
        print(f"{title:<{width}}{cells}")
