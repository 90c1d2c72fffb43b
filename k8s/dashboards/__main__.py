"""Write every screen as JSON into the component."""

from pathlib import Path

from k8s.dashboards.grafana import rendered
from k8s.dashboards.screens import SCREENS

FOLDER = Path(__file__).parents[1] / "components/grafana-dashboards"


def main() -> None:
    """Replace the files of all screens."""
    for screen in SCREENS:
        (FOLDER / f"{screen.uid}.json").write_text(rendered(screen), encoding="utf-8")


if __name__ == "__main__":
    main()
