"""Write the report of a run again, even while the run is at work.

python -m jobs.report runs/refined
"""

import tyro

from actors.errors import UserError
from actors.runs import manifest
from actors.runs.folder import open_run_folder
from jobs.driver import command
from jobs.driver.command import JobConfig
from jobs.reports import page


class ReportConfig(JobConfig):
    """Flags of `jobs.report`."""

    run: tyro.conf.Positional[str]
    """Folder of the run, a path or URI."""


def main() -> None:
    """Entry point of `python -m jobs.report`."""
    command.main(ReportConfig, run, __doc__ or "")


def run(config: ReportConfig) -> int:
    """Write report.html and report.json into the run's folder, and print the summary."""
    output = open_run_folder(config.run)
    record = manifest.load(output)
    if record is None:
        raise UserError(f"there is no run in {config.run}: {output.manifest.path} does not exist")
    facts = page.write_report(output, record)
    print(page.summary(facts, config.run, record))
    return 0


if __name__ == "__main__":
    main()
