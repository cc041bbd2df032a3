"""Whether ends happen in time, and whether everything that they need works."""

from panels import GREEN, INSTALLATION, RED, YELLOW, Dashboard, increase, of, quantile, quantiles, rate, steps, words
from shared import (
    DECISIONS,
    LAG,
    decisions_by_result,
    deny_over_time,
    ended_by_proof,
    happenings,
    journal_lag_over_time,
    lag_over_time,
    orphans_over_time,
    promises,
    stuck_over_time,
)


def operations() -> Dashboard:
    board = Dashboard(
        "operations", "operations", "Whether ends happen in time, and whether everything that they need works."
    )
    happenings(board)
    promises(board, "Does it keep its promises?")

    board.row("Ends")
    lag_over_time(board)
    says = "How many ends took how long."
    board.heat("Revocation lag, all of it", says, rate(f"{LAG}_bucket", by="le"), alert="DayflyEndsLate")
    says = "Share of ends later than 5 seconds, and the lines where a ticket and a page are due."
    late = [
        (f"job:dayfly_ends_late:ratio_rate{window}{{{INSTALLATION}}}", f"{{{{job}}}} {window}")
        for window in ("5m", "1h", "1d")
    ]
    board.graph(
        "Late ends", says, late, unit="percentunit", at=steps((0.03, YELLOW), (0.144, RED)), alert="DayflyEndsSlipping"
    )
    orphans_over_time(board)
    stuck_over_time(board)
    deny_over_time(board)
    ended_by_proof(board)
    says = "Attempts that failed; they are made again, until a person has to look."
    failures = [
        (rate("dayfly_lease_end_failures_total"), "failed"),
        (rate("dayfly_leases_stuck_total"), "became stuck"),
    ]
    board.graph("Failures to end", says, failures, unit="ops")
    says = "For how long that has been waiting which is due longest."
    board.graph(
        "Due longest",
        says,
        [(f"max by (namespace, job) ({of('dayfly_due_oldest_seconds')})", "{{job}}")],
        unit="s",
        at=steps((60, RED)),
        alert="DayflyEndsOverdue",
    )

    board.row("Journal and ledger")
    journal_lag_over_time(board, "For how long the oldest record without a signed checkpoint has been without.")
    says = "From a record to when it is durable. Nothing is answered before."
    board.graph("Time to write a record", says, quantiles("dayfly_journal_append_duration_seconds"), unit="s")
    says = "Nothing is issued once it is full, and nothing is ever deleted from a journal."
    board.graph(
        "Free on the journal's disk",
        says,
        [(of("dayfly_journal_disk_free_ratio"), "{{instance}}")],
        unit="percentunit",
        most=1,
        at=steps((0.05, YELLOW), (0.2, GREEN), first=RED),
        alert="DayflyJournalDiskLow",
    )
    says = "p99 of each call."
    board.graph(
        "Time of the ledger's calls",
        says,
        [(quantile(0.99, "dayfly_ledger_duration_seconds", by="call"), "{{call}}")],
        unit="s",
        width=12,
    )
    says = "Calls of the ledger without an answer, and records that were not taken."
    failures = [
        (rate("dayfly_ledger_failures_total", by="call"), "ledger: {{call}}"),
        (rate("dayfly_journal_failures_total"), "journal"),
    ]
    board.graph("Failures", says, failures, unit="ops", width=12, alert="DayflyLedgerFailing")

    board.row("Decisions and requests")
    decisions_by_result(board)
    says = "What agents and operators do."
    board.graph(
        "Permitted, by verb",
        says,
        [(rate(DECISIONS, 'result="permitted"', by="verb"), "{{verb}}")],
        unit="ops",
        stack=True,
    )
    board.graph(
        "Time to issue",
        "Inside the broker, with the provider's part.",
        quantiles("dayfly_issue_duration_seconds"),
        unit="s",
    )
    board.graph(
        "Answers",
        "By class of status.",
        [(rate("dayfly_http_requests_total", by="status"), "{{status}}")],
        unit="reqps",
        stack=True,
    )
    says = "Share of 5xx."
    board.graph(
        "Answers that fail",
        says,
        [(f"job:dayfly_answers_failed:ratio_rate5m{{{INSTALLATION}}}", "{{job}}")],
        unit="percentunit",
        at=steps((0.05, RED)),
        alert="DayflyAnswersFail",
    )
    says = "p99 of each route; long polls take up to half a minute."
    board.graph(
        "Time to answer",
        says,
        [(quantile(0.99, "dayfly_http_request_duration_seconds", by="route"), "{{route}}")],
        unit="s",
    )

    board.row("Replicas")
    states = words(_0=("not scraped", RED), _1=("scraped", GREEN))
    board.states(
        "Scraped",
        "Whether Prometheus reaches each replica.",
        [(of("up"), "{{instance}}")],
        states,
        alert="DayflyReplicaDown",
    )
    says = "More than one at a time is a roll-out."
    board.graph("Versions", says, [(f"count by (version) ({of('dayfly_build_info')})", "{{version}}")], stack=True)
    says = "Loadings of policies, agents and tools."
    board.graph(
        "Reloads",
        says,
        [(increase("dayfly_reloads_total", by="result"), "{{result}}")],
        stack=True,
        alert="DayflyReloadFailed",
    )
    board.graph(
        "Processor", "Cores in use.", [(f"rate({of('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}")]
    )
    board.graph("Memory", "What is resident.", [(of("process_resident_memory_bytes"), "{{instance}}")], unit="bytes")
    says = "Of those that may be open."
    files = f"{of('process_open_fds')} / {of('process_max_fds')}"
    board.graph(
        "Open files and sockets",
        says,
        [(files, "{{instance}}")],
        unit="percentunit",
        most=1,
        at=steps((0.8, RED)),
        alert="DayflyFilesRunOut",
    )
    return board
