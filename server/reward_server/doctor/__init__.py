"""`reward-server doctor`: looks at everything that a server needs, and says what to do where it isn't as it should be.

It changes nothing and buys nothing, so it may run beside a server: the store is only read, and suppliers are asked for
balance or products. A server that runs is asked, too, how it does.
"""

import asyncio
from collections.abc import Mapping

from reward_server.clock import Clock
from reward_server.config import Settings
from reward_server.doctor.clocks import look_at_clocks
from reward_server.doctor.findings import Finding, Level, Report
from reward_server.doctor.keys import look_at_files, look_at_keys
from reward_server.doctor.network import look_at_callbacks, look_at_server
from reward_server.doctor.store import look_at_store
from reward_server.doctor.suppliers import look_at_suppliers

__all__ = ["Finding", "Level", "Report", "examine"]


async def examine(
    settings: Settings, environ: Mapping[str, str], *, offline: bool = False, clock: Clock | None = None
) -> Report:
    """Looks at everything. `offline`: asks neither suppliers nor `callbacks.public_url`."""
    clock = clock or Clock()
    report = Report()
    for warning in settings.warnings:
        report.hint("configuration", warning, "see docs/configuration.md")
    if not settings.warnings:
        report.ok("configuration", "loads without a warning")
    serving = await look_at_server(settings, report)
    seen = await look_at_store(settings.store, report, clock=clock, serving=serving, processes=settings.grpc.processes)
    look_at_keys(settings, seen, report, clock=clock)
    look_at_files(settings, environ, report, clock=clock)
    look_at_clocks(seen, report, clock=clock)
    if offline:
        report.hint("suppliers", "not asked", "run it without --offline")
        return report
    callbacks, suppliers = Report(), Report()
    await asyncio.gather(
        look_at_callbacks(settings, callbacks, clock=clock),
        look_at_suppliers(settings, seen, suppliers, clock=clock),
    )
    report.add([*callbacks.findings, *suppliers.findings])
    return report
