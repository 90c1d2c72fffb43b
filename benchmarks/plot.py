"""One picture of curves: a panel a question, a line a contender."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_WIDTH, _HEIGHT = 4.2, 3.6  # inches a panel


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same x."""

    title: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]  # name -> y


def draw(path: Path, title: str, x_label: str, y_label: str, panels: Sequence[Panel]) -> bool:
    """Write the picture; returns False where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - needed for pictures alone
    except ImportError:
        return False
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "headrace"  # the same figures make the same file
    from matplotlib import pyplot  # noqa: PLC0415

    size = _WIDTH * len(panels), _HEIGHT
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, panel in zip(axes[0], panels, strict=True):
        for name, values in panel.lines.items():
            axis.plot(panel.x, values, marker="o", markersize=3, label=name)
        axis.set(title=panel.title, xlabel=x_label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(y_label)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(title)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True
