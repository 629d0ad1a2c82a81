"""Make a W&B workspace view and a report for this project's runs: the panels of docs/wandb.md, ready to open.

usage: uv run --with wandb-workspaces python docs/wandb_workspace.py ENTITY PROJECT [--report] [--dry_run]

Needs `wandb login`. Without --report it saves a workspace view, with it a draft report; either prints its address.
--dry_run builds it, prints what it would hold and contacts nobody.
"""

import argparse
import sys
from collections.abc import Sequence

STEP = "trainer/global_step"
# section -> panels; a panel is the log keys that share one chart. Keys that a run does not log leave an empty chart.
SECTIONS: dict[str, list[list[str]]] = {
    "Quality": [
        ["val/fid", "val/fd_mobilenet"],
        ["val/kid"],
        ["val/cmmd"],
        ["val/image_reward"],
        ["val/clip_score"],
        ["val/nll"],
        ["val/mean_recall"],
    ],
    "Reconstruction and editing": [["val/psnr"], ["val/ssim"], ["val/lpips"], ["val/dinov2"]],
    "Diversity": [["val/precision", "val/recall"], ["val/density", "val/coverage"]],
    "Training": [["train/loss"], ["data/skipped"]],
}
PICTURES = ["val/samples", "test/samples"]
TABLES = ["val/sample_table", "test/sample_table"]
BEST = [
    "val/fid.min",
    "val/image_reward.max",
    "val/clip_score.max",
    "val/nll.min",
    "val/mean_recall.max",
]  # of summaries


def panels(reports, keys: list[list[str]]) -> list:
    """Line charts over the training step. reports: the module wandb_workspaces.reports.v2"""
    return [reports.LinePlot(title=" and ".join(k), x=STEP, y=k, smoothing_type="none") for k in keys]


def workspace(entity: str, project: str):
    """The view: sections of line charts, pictures, the tables of single samples and the best values over runs."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    sections = [
        workspaces.Section(name=name, panels=panels(reports, keys), is_open=name in ("Quality", "Training"))
        for name, keys in SECTIONS.items()
    ]
    best = [reports.BarPlot(title=f"best {key.split('.')[0]}", metrics=[reports.SummaryMetric(key)]) for key in BEST]
    shown = [reports.MediaBrowser(media_keys=[key]) for key in PICTURES]
    tables = [reports.WeavePanelSummaryTable(table_name=key) for key in TABLES]
    sections.insert(1, workspaces.Section(name="Best of each run", panels=best, is_open=True))
    sections.insert(2, workspaces.Section(name="Samples", panels=[*shown, *tables], is_open=True))
    return workspaces.Workspace(entity=entity, project=project, name="fewstep", sections=sections)


def report(entity: str, project: str):
    """The draft: the same charts as a document, with room for words."""
    import wandb_workspaces.reports.v2 as reports

    blocks = [reports.TableOfContents()]
    for name, keys in SECTIONS.items():
        runs = reports.Runset(entity=entity, project=project, name="runs")
        blocks += [reports.H1(name), reports.PanelGrid(runsets=[runs], panels=panels(reports, keys))]
    shown = [reports.MediaBrowser(media_keys=[key]) for key in PICTURES]
    blocks += [reports.H1("Samples"), reports.PanelGrid(runsets=[reports.Runset(entity, project)], panels=shown)]
    return reports.Report(entity=entity, project=project, title="fewstep: runs side by side", blocks=blocks)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("wandb_workspace.py", description=__doc__.split("\n")[0])
    parser.add_argument("entity")
    parser.add_argument("project")
    parser.add_argument("--report", action="store_true", help="a report instead of a workspace view")
    parser.add_argument("--dry_run", action="store_true", help="build it and contact nobody")
    args = parser.parse_args(argv)
    try:
        made = (report if args.report else workspace)(args.entity, args.project)
    except ImportError as error:
        remedy = "uv run --with wandb-workspaces python docs/wandb_workspace.py ..."
        print(f"error: {error}; run it as: {remedy}", file=sys.stderr)
        return 2
    if args.dry_run and args.report:
        print(f"a report of {len(made.blocks)} blocks; saving it needs a login")
        return 0
    if args.dry_run:
        spec = made._to_model()
        print(spec.model_dump_json(by_alias=True, indent=1, exclude_none=True))
        return 0
    made.save()
    print(made.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
