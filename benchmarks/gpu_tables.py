"""Tables of ``gpu.json``, which `gpu.py` writes, and of ``gpu_first.json``: runs started by hand on one H200."""

import statistics
from typing import Any

from formatting import MISSING, RESULTS, format_percent, format_spread, format_table, load_result

from lightning_cifar.evaluate.statistics import summarise

TARGET = 0.94  # accuracy with test-time augmentation
LARGE = "fast94 1000"
NAMED = "`fast94`, batches of 1,000"
FIT = "gpu94"
PEER = "airbench94_muon.py"


def read_stage(name: str) -> dict[str, Any]:
    """Return the rows of a stage that have no error; none if it was not measured."""
    stages = load_result("gpu")["stages"] if (RESULTS / "gpu.json").exists() else {}
    rows = stages.get(name, {}).get("rows", {})
    return {key: row for key, row in rows.items() if "error" not in row}


def read_fits(beginning: str) -> list[dict[str, Any]]:
    """Return the fits whose names begin so, of all stages."""
    rows = {key: row for stage in ("fits", "seeds", "recipes") for key, row in read_stage(stage).items()}
    return [row for key, row in rows.items() if key.startswith(f"{beginning}, ")]


def read_peers() -> dict[str, dict[str, Any]]:
    """Return the peers with at least one counted run."""
    rows = {**read_stage("peer"), **read_stage("second_peer")}
    return {name: row for name, row in rows.items() if row["n"]}


def read_kernels(recipe_and_batch: str, kind: str) -> dict[str, Any]:
    """Return the kernels of a step named ``<recipe> <batch>``; empty if they were not measured."""
    compiled = "compiled, " if kind.startswith("compiled") else ""
    stage = read_stage("compile" if compiled else "step")
    return stage.get(f"{recipe_and_batch}, {compiled}kernels", {}).get(
        "replayed" if kind.endswith("replayed") else "eager", {}
    )


def tabulate_targets() -> str:
    rows = [
        [f"host time of a replayed step over the time of its kernels, {NAMED}", describe_host()],
        [f"time of `fit` to 94.0 % with TTA over that of `{PEER}`, `{FIT}`", describe_peer()],
        [f"time of `fit` over that of the same replayed steps in a bare loop, `{FIT}`", describe_trainer()],
        ["`report`, 30 epochs", describe_report()],
    ]
    return format_table(["", "measured"], rows)


def describe_host() -> str:
    step, kernels = read_stage("step").get(f"{LARGE}, replayed"), read_kernels(LARGE, "replayed")
    if step is None or not kernels:
        return MISSING
    host, device = step["host_ms"]["median"], kernels["kernels_ms"]
    return f"{host:.2f} ms / {device:.2f} ms = {host / device:.2f}"


def describe_peer() -> str:
    fits, peer = read_fits(f"{FIT}, replayed"), read_peers().get(PEER)
    if not fits or peer is None:
        return MISSING
    accuracy = summarise([fit["accuracy"] for fit in fits])
    seconds, peer_seconds = (
        statistics.median(times) for times in ([fit["fit_seconds"] for fit in fits], peer["seconds"])
    )
    text = f"{seconds:.2f} s / {peer_seconds:.2f} s = {seconds / peer_seconds:.2f}"
    if accuracy["mean"] >= TARGET:
        return text
    return f"94.0 % was not reached: {text} at {format_spread(accuracy)}, n = {len(fits)}"


def describe_trainer() -> str:
    fit, loop = (read_stage("fits").get(f"{FIT}, {kind}") for kind in ("replayed, seed 0", "bare loop"))
    if fit is None or loop is None:
        return MISSING
    return f"{fit['fit_seconds']:.2f} s / {loop['seconds']:.2f} s = {fit['fit_seconds'] / loop['seconds']:.2f}"


def describe_report() -> str:
    fits = read_fits("report")
    return f"{fits[0]['fit_seconds']:.0f} s, {format_percent(fits[0]['accuracy'])}" if fits else MISSING


def tabulate_card() -> str:
    if not (card := read_stage("card")):
        return format_table(["GPU"], [[MISSING]])
    result, ceilings, versions = load_result("gpu"), card.get("ceilings", {}), card.get("versions", {})
    values = [
        *(result["device"]["name"], result["torch"], versions.get("cuda"), versions.get("cudnn")),
        f"{ceilings['copy_terabytes_per_second']:.2f} TB/s" if ceilings else MISSING,
        f"{ceilings['matmul_teraflops']:.0f} TFLOP/s" if ceilings else MISSING,
        f"{ceilings['host_microseconds_per_op']:.1f} µs" if ceilings else MISSING,
    ]
    head = ["GPU", "torch", "CUDA", "cuDNN", "copy", "bf16 matrix product", "host time of an operation"]
    return format_table(head, [list(map(str, values))], result["command"])


def tabulate_steps() -> str:
    rows = []
    for key, step in {**read_stage("step"), **read_stage("compile")}.items():
        if "wall_ms" not in step:
            continue
        named, kind = key.split(", ")
        kernels = read_kernels(named, kind)
        times = [f"{step[name]['median']:.2f} ms" for name in ("wall_ms", "host_ms")]
        measured = [f"{kernels['kernels_ms']:.2f} ms", f"{kernels['launches']:,.0f}"] if kernels else [MISSING] * 2
        first = f"{step['first_step_seconds']:.1f} s"
        rows.append([f"`{step['recipe']}`, batch {step['batch']:,}, {kind}", *times, *measured, first])
    head = ["step without the Trainer", "wall", "host", "kernels", "kernels launched", "first step"]
    return format_table(head, rows or [[NAMED, *[MISSING] * 5]])


def tabulate_fits() -> str:
    rows = []
    names = {
        f"{FIT}, replayed": f"`{FIT}`, replayed",
        f"{FIT}, eager": f"`{FIT}`, eager",
        "fast": "`fast`",
        "report": "`report`",
    }
    for beginning, name in names.items():
        fits = read_fits(beginning)
        seconds, *accuracies = (
            [fit[key] for fit in fits] for key in ("fit_seconds", "accuracy_without_tta", "accuracy")
        )
        rows.append([name, *format_runs(seconds, accuracies)])
    peers = read_peers()
    for name in [PEER, *(name for name in peers if name != PEER)]:
        row = peers.get(name, {})
        seconds, *accuracies = (row.get(key, []) for key in ("seconds", "accuracy_without_tta", "accuracy"))
        rows.append([f"`{name}`", *format_runs(seconds, accuracies)])
    return format_table(["", "n", "median time", "test accuracy without TTA", "with TTA"], rows)


def format_runs(seconds: list[float], accuracies: list[list[float]]) -> list[str]:
    if not seconds:
        return ["0", *[MISSING] * 3]
    return [
        str(len(seconds)),
        f"{statistics.median(seconds):.2f} s",
        *(format_spread(summarise(one)) for one in accuracies),
    ]


def tabulate_stages() -> str:
    rows = []
    for batch, found in load_result("gpu_first")["stages"].items():
        stages = [f"{time:.1f} ms" for time in found["milliseconds"].values()]
        rows.append([batch, f"{found['step_milliseconds']:.0f} ms", *stages])
    head = ["`fast94`, batches of", "a step", "augmentation", "forward", "metrics", "backward", "optimiser"]
    return format_table(head, rows)


def tabulate_batches() -> str:
    rows = [
        [
            found["batch"],
            f"{found['steps']:,}",
            format_percent(found["val_accuracy"]),
            format_percent(found["val_accuracy_tta"]),
        ]
        for found in load_result("gpu_first")["validated"]
    ]
    head = ["`fast94`, batches of", "steps", "validation accuracy", "with test-time augmentation"]
    return format_table(head, rows)


def tabulate_choices() -> str:
    """Return what was tried on the validation split, and the selected settings on the test set."""
    found = load_result("gpu_choices")
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        kinds.setdefault((row["choice"], row["evaluated"]), []).append(row)
    rows = []
    for (choice, evaluated), fits in kinds.items():
        seconds = statistics.median(fit["fit_seconds"] for fit in fits[evaluated == "val" and len(fits) > 1 :])
        accuracies = [[fit[name] for fit in fits] for name in ("accuracy_without_tta", "accuracy")]
        cells = [
            format_spread(summarise(one)) if evaluated == "test" else format_percent(statistics.mean(one))
            for one in accuracies
        ]
        rows.append([choice, evaluated, str(len(fits)), f"{seconds:.1f} s", *cells])
    return format_table(["`fast94`, batches of 1,000, with", "on", "n", "`fit`", "without TTA", "with TTA"], rows)


TABLES = {
    "gpu_choices": tabulate_choices,
    "gpu_targets": tabulate_targets,
    "gpu_card": tabulate_card,
    "gpu_steps": tabulate_steps,
    "gpu_fits": tabulate_fits,
    "gpu_stages": tabulate_stages,
    "gpu_batches": tabulate_batches,
}
