"""What every operator looks at first, on more than one dashboard. What each replica counts is taken by `max`."""

from panels import (
    BLUE,
    GREEN,
    INSTALLATION,
    RED,
    YELLOW,
    Dashboard,
    increase,
    of,
    quantile,
    quantiles,
    rate,
    steps,
    words,
)

LAG = "dayfly_revocation_lag_seconds"
DENY = "dayfly_time_to_deny_seconds"
DECISIONS = "dayfly_decisions_total"


def promises(board: Dashboard, title: str) -> None:
    """The row that everybody begins with."""
    board.row(title)
    for panel in (revocation_lag, orphans, stuck, time_to_deny, journal_lag, waiting, ledger_state, denied):
        panel(board)


def revocation_lag(board: Dashboard) -> None:
    says = "From the instant that a lease had to end to its proof, in the last 15 minutes. Objective: 99% in 5 seconds."
    expr = quantile(0.99, LAG, window="15m")
    board.stat(
        "Revocation lag, p99",
        says,
        expr,
        unit="s",
        at=steps((1, YELLOW), (5, RED)),
        alert="DayflyEndsLate",
        none="no ends",
    )


def orphans(board: Dashboard) -> None:
    says = (
        "Credentials that providers hold, that should not be there, and that could not be ended at the last comparison."
    )
    expr = f"sum(max by (namespace, job, provider) ({of('dayfly_orphans')}))"
    board.stat("Orphans", says, expr, at=steps((1, RED)), alert="DayflyOrphans")


def stuck(board: Dashboard) -> None:
    says = "Leases that cannot be ended: somebody has to look."
    expr = f"sum(max by (namespace, job, provider) ({of('dayfly_stuck_leases')}))"
    board.stat("Stuck leases", says, expr, at=steps((1, RED)), alert="DayflyLeaseStuck")


def time_to_deny(board: Dashboard) -> None:
    says = "From when somebody asked for an end to when it was durable and denied, in the last hour."
    expr = quantile(0.99, DENY, 'because="request"', window="1h")
    board.stat(
        "Time to deny, p99",
        says,
        expr,
        unit="s",
        at=steps((0.5, YELLOW), (1, RED)),
        alert="DayflyDenySlow",
        none="no orders",
    )


def journal_lag(board: Dashboard) -> None:
    says = "For how long the oldest record without a signed checkpoint has been without, at the worst replica."
    expr = f"max({of('dayfly_journal_checkpoint_age_seconds')})"
    board.stat(
        "Journal lag", says, expr, unit="s", at=steps((10, YELLOW), (60, RED)), alert="DayflyCheckpointOld", decimals=1
    )


def waiting(board: Dashboard) -> None:
    says = "For how long that has been waiting which is due longest."
    expr = f"max({of('dayfly_due_oldest_seconds')})"
    board.stat(
        "Due longest", says, expr, unit="s", at=steps((10, YELLOW), (60, RED)), alert="DayflyEndsOverdue", decimals=1
    )


def ledger_state(board: Dashboard) -> None:
    says = "In quarantine the ledger was lost: what is out is ended, and nothing is given out until `dayfly recover`."
    mapped = words(_0=("whole", GREEN), _1=("LOST", RED))
    board.stat(
        "Ledger",
        says,
        f"max({of('dayfly_quarantine')})",
        at=steps((1, RED)),
        mapped=mapped,
        alert="DayflyQuarantine",
        none="?",
    )


def denied(board: Dashboard) -> None:
    says = "Share of decisions that were denials, in the last 15 minutes."
    expr = " / ".join([rate(DECISIONS, 'result="denied"', window="15m"), rate(DECISIONS, window="15m")])
    board.stat(
        "Denied",
        says,
        expr,
        unit="percentunit",
        at=steps((0.2, YELLOW), first=BLUE),
        alert="DayflyDenialsJump",
        none="none",
        decimals=1,
    )


def lag_over_time(board: Dashboard) -> None:
    says = "From the instant that a lease had to end to its proof. The line: what 99% have to keep."
    board.graph("Revocation lag", says, quantiles(LAG), unit="s", at=steps((5, RED)), alert="DayflyEndsLate")


def deny_over_time(board: Dashboard) -> None:
    says = (
        "p99, from an order, a fact or an event elsewhere to when it denies. Signals may come long after their event."
    )
    board.graph(
        "Time to deny",
        says,
        [(quantile(0.99, DENY, by="because"), "{{because}}")],
        unit="s",
        at=steps((1, RED)),
        alert="DayflyDenySlow",
    )


def stuck_over_time(board: Dashboard, *chosen: str, says: str = "Leases that cannot be ended, by provider.") -> None:
    expr = f"max by (namespace, job, provider) ({of('dayfly_stuck_leases', *chosen)})"
    board.graph("Stuck leases", says, [(expr, "{{provider}}")], at=steps((1, RED)), alert="DayflyLeaseStuck")


def orphans_over_time(
    board: Dashboard,
    *chosen: str,
    says: str = "What providers hold that should not be there and could not be ended, as of the last comparison.",
) -> None:
    expr = f"max by (namespace, job, provider) ({of('dayfly_orphans', *chosen)})"
    board.graph("Orphans", says, [(expr, "{{provider}}")], at=steps((1, RED)), alert="DayflyOrphans")


def journal_lag_over_time(board: Dashboard, says: str) -> None:
    board.graph(
        "Journal lag",
        says,
        [(of("dayfly_journal_checkpoint_age_seconds"), "{{instance}}")],
        unit="s",
        at=steps((60, RED)),
        alert="DayflyCheckpointOld",
    )


def disagreements(board: Dashboard, says: str, *chosen: str) -> None:
    board.graph(
        "Disagreements",
        says,
        [
            (
                increase("dayfly_reconciled_total", *chosen, by="provider, found, result"),
                "{{provider}}: {{found}}, {{result}}",
            )
        ],
        stack=True,
        alert="DayflyDisagreement",
    )


def ended_by_proof(board: Dashboard) -> None:
    says = "How ends are known. `outlived` says that only the lease is over; `abandoned`, that somebody gave up."
    board.graph(
        "Ends by proof", says, [(rate("dayfly_leases_ended_total", by="proof"), "{{proof}}")], unit="ops", stack=True
    )


def decisions_by_result(board: Dashboard) -> None:
    says = "`failed` was permitted and then not done."
    board.graph(
        "Decisions",
        says,
        [(rate(DECISIONS, by="result"), "{{result}}")],
        unit="ops",
        stack=True,
        alert="DayflyPermittedNotDone",
    )


def happenings(board: Dashboard) -> None:
    """What explains a bend in a curve."""
    alerts = f'ALERTS{{alertname=~"Dayfly.+", alertstate="firing", severity="page", {INSTALLATION}}}'
    board.annotate("Pages", alerts, RED)
    ordered = rate(DECISIONS, 'verb="revoke"', 'result="permitted"', window="1m")
    board.annotate("Revocations ordered", f"{ordered} > 0", "orange")
    in_force = rate("dayfly_reloads_total", 'result="in_force"', window="1m")
    board.annotate("Rules put in force", f"{in_force} > 0", BLUE)
    refused = rate("dayfly_reloads_total", 'result=~"refused|failed"', window="1m")
    board.annotate("Rules refused", f"{refused} > 0", "purple")
    board.annotate("Restarts", f"time() - {of('process_start_time_seconds')} < 120", YELLOW)
