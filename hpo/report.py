"""Prints what a job found: how good, how large, how fast, what the search cost, and where the student is."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hpo.console import Console, duration


def print_result(result: dict[str, Any], console: Console) -> None:
    """The whole result of `job.run` on stdout."""
    evaluation = result["evaluation"]
    console.out.print(recall_table(evaluation))
    console.out.print()
    console.out.print(inference_table(evaluation["inference"]))
    console.out.print()
    lines = [_retention_line(evaluation["retention"]), _search_line(result["search"])]
    lines += [_verdict(evaluation), f"student: {result['export']}"]
    for line in lines:
        console.out.print(line, markup=False, soft_wrap=True)


def print_export_evaluation(result: dict[str, Any], console: Console) -> None:
    """What `hpo evaluate` found."""
    now, then = _interval(result["recall"], "{:.4f}"), _interval(result["recorded"], "{:.4f}")
    console.out.print(f"{result['study']}: test recall@{result['k']} over {result['scenes']} scenes", markup=False)
    console.out.print(f"  now       {now}\n  manifest  {then}", markup=False)


def recall_table(evaluation: dict[str, Any]) -> Table:
    """Every system on the test scenes."""
    k, shots, scenes = evaluation["k"], evaluation["shots"], evaluation["scenes"]
    table = Table(
        title=f"Test recall@{k} after {shots} interactions, mean over {scenes} unseen scenes [95 % interval]",
        title_justify="left",
        box=None,
        padding=(0, 1),
    )
    table.add_column("system")
    for column in (f"recall@{k}", "over support popularity", f"nDCG@{k}", "hit rate", "coverage"):
        table.add_column(column, justify="right")
    for name, figures in sorted(evaluation["systems"].items(), key=lambda system: system[1]["recall"]["mean"]):
        difference = figures["over_popularity"]
        table.add_row(
            name,
            _interval(figures["recall"], "{:.3f}"),
            "" if name == "support popularity" else _interval(difference, "{:+.3f}"),
            f"{figures['ndcg']:.3f}",
            f"{figures['hit_rate']:.3f}",
            f"{figures['coverage']:.2f}",
        )
    return table


def inference_table(inference: dict[str, dict[str, float]]) -> Table:
    """Teacher and student side by side."""
    table = Table(title="Inference, measured here", title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    for column in ("parameters", "size", "texts/s"):
        table.add_column(column, justify="right")
    for name, figures in inference.items():
        table.add_row(
            name,
            f"{figures['parameters'] / 1e6:.1f} M",
            f"{figures['bytes'] / 1e6:.0f} MB",
            f"{figures['items_per_second']:.0f}",
        )
    teacher, student = inference["teacher"], inference["student"]
    table.add_row(
        "student / teacher",
        *(f"{student[key] / teacher[key]:.2f}×" for key in ("parameters", "bytes", "items_per_second")),
    )
    return table


def _interval(interval: dict[str, float], form: str) -> str:
    return f"{form.format(interval['mean'])} [{form.format(interval['low'])}, {form.format(interval['high'])}]"


def _retention_line(retention: dict[str, Any]) -> str:
    lift = retention["lift"]
    kept = "the teacher has no lift to keep" if lift is None else f"{lift:.0%} of its lift over {retention['baseline']}"
    return f"The student keeps {retention['recall']:.1%} of the best teacher's recall and {kept}."


def _search_line(search: dict[str, Any]) -> str:
    cost, full = search["cost_seconds"], search["unpruned_seconds"]
    states = ", ".join(f"{count} {state}" for state, count in sorted(search["states"].items()))
    saved = f"{1 - cost / full:.0%}" if full else "0%"
    return (
        f"The search ran {search['trials']} trials ({states}) in {duration(cost)} of training and evaluation; "
        f"unpruned it would have taken about {duration(full)}: pruning saved {saved}."
    )


def _verdict(evaluation: dict[str, Any]) -> str:
    interval = evaluation["systems"][evaluation["best_teacher"]]["over_popularity"]
    if interval["low"] > 0:
        return "The best teacher beats support popularity: the interval of their difference excludes zero."
    if interval["high"] < 0:
        return "The best teacher loses to support popularity: the interval of their difference excludes zero."
    return "The best teacher's difference from support popularity is within the noise: its interval includes zero."
