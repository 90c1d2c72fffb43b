"""The pictures of a report: latency over time, its distribution, and latency against the offered rate."""

import io
from collections.abc import Mapping
from typing import Any, Final

_SIZE: Final = (14.0, 4.0)  # inches
_NONE: Final = "<p>No pictures: matplotlib is not installed here.</p>"


def pictures(found: Mapping[str, Any]) -> str:
    """Draw them as one SVG element; without matplotlib, say so."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - needed for pictures alone
    except ImportError:
        return _NONE
    mpl.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (over_time, distribution, by_rate) = pyplot.subplots(1, 3, figsize=_SIZE, layout="constrained")
    slices = [each for each in found["slices"] if each["p50_ms"] is not None]
    times, rates = [each["from_s"] for each in slices], [each["offered_per_s"] for each in slices]
    for name in ("p50_ms", "p99_ms"):
        values = [each[name] for each in slices]
        over_time.plot(times, values, label=name.removesuffix("_ms"))
        by_rate.plot(rates, values, "o", markersize=3, label=name.removesuffix("_ms"))
    over_time.axvspan(0, found["conditions"]["warm_up_s"], alpha=0.15, label="warm-up")
    over_time.set(title="over time", xlabel="s", ylabel="ms from the intended moment", ylim=(0, None))
    by_rate.set(
        title="against the offered rate", xlabel="calls per second", ylabel="ms", xlim=(0, None), ylim=(0, None)
    )
    distribution.plot([value for _, value in found["curve"]], [percent / 100 for percent, _ in found["curve"]])
    distribution.set(title="distribution", xlabel="ms", ylabel="share of answers", ylim=(0, 1))
    for axis in (over_time, distribution, by_rate):
        axis.grid(alpha=0.3)
    over_time.legend(fontsize="small")
    by_rate.legend(fontsize="small")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return text.getvalue().partition("<svg")[2].join(("<svg", ""))
