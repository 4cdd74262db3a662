"""The table, the picture and the summary of what `gpu` measured."""

from collections.abc import Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from .report import microseconds, span, table

LARGE = ("1 × 1 GB", "transformer 1.3B")  # workloads that memory bandwidth alone bounds
GOAL = 0.9  # share of copy bandwidth on those


def rivals(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather the implementations of each workload, dtype and algorithm: `{"ours": row, "torch fused": row, …}`."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["workload"], row["dtype"], row["algorithm"]
        found.setdefault(key, {"key": key})[row["implementation"]] = row
    return list(found.values())


def ratio(line: dict[str, Any], name: str) -> float | None:
    """Return our time over another's, or None unless both were measured."""
    ours, theirs = line["ours"], line.get(name, {})
    return float(ours["time"]["median"] / theirs["time"]["median"]) if "time" in ours and "time" in theirs else None


def markdown(lines: list[dict[str, Any]]) -> str:
    """Return a table with a row for each workload, dtype and algorithm; footnotes name failures and warm caches."""
    names = list(dict.fromkeys(name for line in lines for name in line if name not in ("key", "ours")))
    header = ["workload", "dtype", "optimizer", "ours µs", "p10–p90", "% of copy", "host µs", "launches", "extra MB"]
    header += [f"ours/{name}" for name in names] + [f"{name}: host µs, extra MB" for name in names[:2]]
    cells = [[*line["key"], *_ours(line["ours"]), *_others(line, names)] for line in lines]
    notes = [
        f"- {' '.join(line['key'])}, {name}: {row['failed']}"
        for line in lines
        for name, row in line.items()
        if name != "key" and "failed" in row
    ]
    warm = sorted({line["key"][0] for line in lines if line["ours"].get("beyond_cache") is False})
    if warm:
        notes.append(f"- * {', '.join(warm)}: the rotation stayed within the L2 cache")
    return "\n".join([table(header, cells), "", "Ratios below 1: ours is faster. Times are medians.", *notes])


def _ours(row: dict[str, Any]) -> list[str]:
    """Return the cells of our own figures."""
    if "failed" in row:
        return ["failed", *[""] * 5]
    time = row["time"]
    return [
        microseconds(time["median"]) + ("" if row["beyond_cache"] else " *"),
        span(time),
        f"{row['share']:.1%}",
        microseconds(row["host"]["median"]),
        str(row["launches"]),
        _megabytes(row["extra_bytes"]),
    ]


def _others(line: dict[str, Any], names: list[str]) -> list[str]:
    """Return the cells that compare ours with the others."""
    ratios = [ratio(line, name) for name in names]
    costs = [line.get(name, {}) for name in names[:2]]
    return [
        *("—" if value is None else f"{value:.2f}" for value in ratios),
        *(
            f"{microseconds(row['host']['median'])}, {_megabytes(row['extra_bytes'])}" if "host" in row else "—"
            for row in costs
        ),
    ]


def _megabytes(size: int | None) -> str:
    """Return a size in megabytes, or a dash for None."""
    return "—" if size is None else f"{size / 1e6:.2f}"


def summary(lines: list[dict[str, Any]]) -> str:
    """Return a few sentences: bandwidth where tensors are large, how the others compare, launches."""
    measured = [line for line in lines if "time" in line["ours"]]
    large = [line for line in measured if line["key"][0] in LARGE]
    said = [f"Measured {len(measured)} of {len(lines)} rows."]
    if large:
        worst = min(large, key=lambda line: line["ours"]["share"])
        reached = sum(line["ours"]["share"] >= GOAL for line in large)
        said.append(
            f"Large tensors: {reached} of {len(large)} rows at {GOAL:.0%} of copy bandwidth or more; "
            f"the least is {worst['ours']['share']:.1%} ({', '.join(worst['key'])})."
        )
    for name in dict.fromkeys(name for line in lines for name in line if name not in ("key", "ours")):
        ratios = [(value, line["key"]) for line in measured if (value := ratio(line, name)) is not None]
        if ratios:
            most, where = max(ratios)
            said.append(
                f"Time over {name}'s: geometric mean {geometric_mean(value for value, _ in ratios):.2f}, "
                f"ahead in {sum(value < 1 for value, _ in ratios)} of {len(ratios)} rows, "
                f"at worst {most:.2f} ({', '.join(where)})."
            )
    launches = sorted({line["ours"]["launches"] for line in measured})
    said.append(f"Launches a step: {', '.join(map(str, launches))}.")
    return "\n".join(said)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the share of copy bandwidth: a panel for each workload and dtype, a bar for each implementation."""
    import matplotlib  # here, since no other command needs it

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    def names(key: str) -> list[str]:
        return list(dict.fromkeys(row[key] for row in rows))

    workloads, dtypes, algorithms, implementations = map(names, ("workload", "dtype", "algorithm", "implementation"))
    figure, axes = plt.subplots(
        len(workloads), len(dtypes), figsize=(6 * len(dtypes), 2.4 * len(workloads)), squeeze=False, sharex=True
    )
    width = 0.8 / len(implementations)
    for i, workload in enumerate(workloads):
        for j, dtype in enumerate(dtypes):
            panel = axes[i][j]
            for k, implementation in enumerate(implementations):
                shares = {
                    row["algorithm"]: 100 * row["share"]
                    for row in rows
                    if (row["workload"], row["dtype"], row["implementation"]) == (workload, dtype, implementation)
                    and "share" in row
                }
                places = [x + (k - (len(implementations) - 1) / 2) * width for x in range(len(algorithms))]
                panel.bar(places, [shares.get(name, 0) for name in algorithms], width, label=implementation)
            panel.set_title(f"{workload}, {dtype}", fontsize=9)
            panel.set_xticks(range(len(algorithms)), algorithms, fontsize=8)
            panel.set_ylabel("% of copy bandwidth", fontsize=8)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
