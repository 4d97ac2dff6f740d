#!/usr/bin/env python3
"""Make avatars of many subjects: python fleet.py LIST -o OUT  (--help lists every setting, docs/fleet.md explains)."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

from arguments import parse_flags
from arguments.fleet_settings import FleetSettings
from orchestration.driver import Driver
from orchestration.index_page import write_index
from orchestration.schedulers import LocalScheduler, Scheduler
from orchestration.slurm import write_scripts
from orchestration.standing import Standing, stand
from orchestration.subjects import read_subjects
from utils.atomic import terminate_as_exit

log = logging.getLogger("fleet")
PROGRAMS = Path(__file__).resolve().parent


def scheduler_of(settings: FleetSettings) -> Scheduler:
    """Ray where it is wanted and there, else one after another, saying so. ValueError when it is wanted and not there.

    """
    installed = importlib.util.find_spec("ray") is not None
    wanted = settings.scheduler == "ray" or settings.address is not None
    if settings.scheduler == "local" or not (installed or wanted):
        if settings.address is not None:
            raise ValueError("--address: is for Ray; leave --scheduler local out")
        if settings.scheduler == "auto":
            log.info("Ray is not installed (pip install -r requirements-fleet.txt): one subject after another")
        return LocalScheduler()
    if not installed:
        raise ValueError("Ray is not installed: pip install -r requirements-fleet.txt, or --scheduler local")
    from orchestration.ray_scheduler import RayScheduler  # only here: Ray is optional

    return RayScheduler(settings.address, settings.cpus, settings.gpus)


def tell(standings: list[Standing], page: str) -> bool:
    """Say how it ended and where to look; whether nothing failed."""
    failed = [standing for standing in standings if standing.state == "failed"]
    for standing in failed:
        log.info("FAILED %s: %s: %s", standing.subject.name, standing.stage, standing.error)
    finished = sum(standing.state == "finished" for standing in standings)
    log.info("%d of %d finished%s. %s", finished, len(standings), f", {len(failed)} failed" if failed else "", page)
    return not failed


def run(settings: FleetSettings) -> bool:
    """Bring every subject through its stages; whether all of them succeeded."""
    out = settings.output.absolute()
    subjects = read_subjects(settings)
    if settings.slurm:
        log.info("Written; start it with: bash %s", write_scripts(out, subjects, settings, PROGRAMS, sys.argv[1:]))
        return True
    standings = stand(out, subjects)
    shows = not settings.only
    page = f"Open {out / 'index.html'}" if shows else "Renew the page by --status True without --only"
    if settings.status:
        if shows:
            write_index(out, standings)
        return tell(standings, page)
    scheduler = scheduler_of(settings)
    driver = Driver(out, standings, scheduler, PROGRAMS, settings.stages, settings.retries, shows)
    if isinstance(scheduler, LocalScheduler):
        scheduler.tick = driver.tick
    driver.run()
    return tell(standings, page)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    terminate_as_exit()
    try:
        sys.exit(0 if run(parse_flags(FleetSettings, "fleet.py")) else 1)
    except (ValueError, OSError) as error:
        sys.exit(f"fleet.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nfleet.py: stopped; the same command goes on where it was")


if __name__ == "__main__":
    main()
