"""Are the GPUs well, and what do answers cost?"""

from k8s.dashboards.grafana import Line, Panel, Screen

SCREEN = Screen(
    "headrace-gpu",
    "GPU",
    "Are the GPUs well, and what do answers cost?",
    [
        Panel(
            "Energy, joules for 1000 answers",
            "Of all GPUs, idle ones too; an answer is an input that was computed or reused.",
            "joule",
            [Line("now", "headrace:joules_per_1000_answers:rate5m{NS}")],
            kind="stat",
        ),
        Panel(
            "GPUs that answer",
            "Pods whose driver answers for every GPU.",
            "short",
            [Line("well", "sum(headrace_nvml_up{NS})")],
            kind="stat",
        ),
        Panel(
            "Errors in the last day",
            "XIDs: what the driver reports. Uncorrected memory errors: the GPU must be reset.",
            "short",
            [
                Line("XIDs", "sum(increase(headrace_gpu_xids_total{NS}[1d]))"),
                Line("memory", 'sum(increase(headrace_gpu_ecc_errors_total{NS, kind="uncorrected"}[1d]))'),
            ],
            kind="stat",
        ),
        Panel(
            "Last XID",
            "The code of the last error that a driver reported; NVIDIA's list says what it means. 0: none.",
            "short",
            [Line("{{instance}} {{gpu}}", "headrace_gpu_last_xid{NS}")],
            kind="stat",
        ),
        Panel(
            "Busy",
            "Share of the time in which any kernel ran, however small: 1 is not full. Demand tells the load.",
            "percentunit",
            [Line("{{instance}} {{gpu}}", "headrace_gpu_busy_ratio{NS}")],
            highest=1.0,
        ),
        Panel(
            "Memory",
            "In use, by whomever, and all there is.",
            "bytes",
            [
                Line("{{instance}} {{gpu}}", "headrace_gpu_memory_used_bytes{NS}"),
                Line("the least there is", "min(headrace_gpu_memory_total_bytes{NS})"),
            ],
        ),
        Panel(
            "Power",
            "Drawn, and the least limit.",
            "watt",
            [
                Line("{{instance}} {{gpu}}", "headrace_gpu_power_watts{NS}"),
                Line("limit", "min(headrace_gpu_power_limit_watts{NS})"),
            ],
        ),
        Panel(
            "Energy, joules for 1000 answers",
            "It falls as batches fill. It rises when pods idle: scale down.",
            "joule",
            [Line("joules", "headrace:joules_per_1000_answers:rate5m{NS}")],
        ),
        Panel(
            "Clocks",
            "Lower under load than yesterday: see what holds it back.",
            "hertz",
            [Line("{{instance}} {{gpu}} {{clock}}", "headrace_gpu_clock_hertz{NS}")],
        ),
        Panel(
            "Held back by",
            "The power cap is common under full load. Heat, slowdown and the power brake are the machine's trouble.",
            "short",
            [Line("{{instance}} {{gpu}} {{reason}}", "headrace_gpu_throttled{NS}")],
            highest=1.0,
        ),
        Panel(
            "Temperature",
            "Of the chip.",
            "celsius",
            [Line("{{instance}} {{gpu}}", "headrace_gpu_temperature_celsius{NS}")],
        ),
        Panel(
            "Memory errors",
            "Corrected ones that grow announce others.",
            "short",
            [Line("{{instance}} {{gpu}} {{kind}}", "increase(headrace_gpu_ecc_errors_total{NS}[1h])")],
        ),
    ],
)
