"""Write the report of a run again, any time, also while the run is at work.

python -m jobs.report runs/gsm8k
"""

from pathlib import Path

import tyro

from actors.storage import open_storage
from jobs.driver import command, manifest, report
from jobs.driver.command import JobConfig, UserError


class ReportConfig(JobConfig):
    """Flags of `jobs.report`."""

    run: tyro.conf.Positional[str]
    """Folder of the run, a path or URI."""


def main() -> None:
    """Entry point of `python -m jobs.report`."""
    command.main(ReportConfig, run, __doc__ or "")


def run(config: ReportConfig) -> int:
    """Write report.html and report.json into the run and print the summary."""
    try:
        output = open_storage(config.run)
    except ValueError as error:
        raise UserError(str(error)) from None
    record = manifest.load(output)
    if record is None:
        raise UserError(f"no run in {config.run}: there is no {Path(config.run) / manifest.NAME}")
    facts = report.write_report(output, record)
    print(report.summary(facts, config.run, record))
    return 0


if __name__ == "__main__":
    main()
