"""What outlives its end, who is turned away, and whether what Dayfly relies on can be relied on."""

from panels import GREEN, INSTALLATION, RED, YELLOW, Dashboard, of, quantiles, rate, steps, words
from shared import (
    DECISIONS,
    decisions_by_result,
    deny_over_time,
    disagreements,
    ended_by_proof,
    happenings,
    journal_lag_over_time,
    lag_over_time,
    promises,
)


def security() -> Dashboard:
    board = Dashboard(
        "security",
        "security",
        "What outlives its end, who is turned away, and whether what Dayfly relies on can be relied on.",
    )
    happenings(board)
    promises(board, "What outlives its end")

    board.row("How fast access stops")
    lag_over_time(board)
    deny_over_time(board)
    says = "From a change of facts, rules, registry or keys to when all that it concerns was decided anew."
    board.graph(
        "Recheck lag",
        says,
        quantiles("dayfly_recheck_lag_seconds"),
        unit="s",
        at=steps((60, RED)),
        alert="DayflyRechecksLate",
    )
    says = "Why leases end. Expiry and completion are everyday life; the others are somebody's decision."
    board.graph(
        "Ends by cause", says, [(rate("dayfly_leases_ended_total", by="cause"), "{{cause}}")], unit="ops", stack=True
    )
    says = "Changes that are not gone through yet."
    board.graph(
        "Rechecks that wait",
        says,
        [(f"max by (namespace, job) ({of('dayfly_rechecks_waiting')})", "{{job}}")],
        alert="DayflyRechecksLate",
    )
    says = "From an event at an identity provider to when all that follows from it is written down."
    board.graph("Signal lag", says, quantiles("dayfly_signal_lag_seconds"), unit="s")

    board.row("Who is turned away")
    decisions_by_result(board)
    board.graph(
        "Denials",
        "By what was asked.",
        [(rate(DECISIONS, 'result="denied"', by="verb"), "{{verb}}")],
        unit="ops",
        stack=True,
        alert="DayflyDenialsJump",
    )
    says = "Callers that were refused before anything was decided."
    board.graph(
        "Refused callers",
        says,
        [(rate("dayfly_evidence_refused_total", by="reason"), "{{reason}}")],
        unit="ops",
        stack=True,
        alert="DayflyRefusalsJump",
    )
    says = "Denials of now, and of the same time yesterday."
    now = f"job:dayfly_decisions_denied:rate10m{{{INSTALLATION}}}"
    board.graph(
        "Denials against yesterday",
        says,
        [(now, "{{job}}"), (f"{now} offset 1d", "{{job}} yesterday")],
        unit="ops",
        alert="DayflyDenialsJump",
    )
    says = "What tools were told about tokens. Not `active`: a token is shown that must not be relied on."
    board.graph(
        "Introspections", says, [(rate("dayfly_introspections_total", by="found"), "{{found}}")], unit="ops", stack=True
    )
    says = "What was asked with evidence that nobody could take, and what strangers tried."
    board.graph(
        "Answers 4xx",
        says,
        [(rate("dayfly_http_requests_total", 'status="4xx"', by="route"), "{{route}}")],
        unit="reqps",
        stack=True,
    )

    board.row("Proof")
    ended_by_proof(board)
    says = "What providers and the ledger disagreed on: credentials without a lease, and leases without a credential."
    disagreements(board, says)
    says = "Age of the oldest record without a signed checkpoint: whoever has the disk can change it unseen."
    journal_lag_over_time(board, says)

    board.row("What is relied on")
    says = "How long ago the keys of each authority were last had. After a day their evidence is refused."
    board.graph(
        "Age of evidence keys",
        says,
        [(f"max by (authority) ({of('dayfly_evidence_keys_age_seconds')})", "{{authority}}")],
        unit="s",
        at=steps((21600, RED)),
        alert="DayflyEvidenceKeysOld",
    )
    says = "Callers that were refused because the keys of an authority could not be had."
    board.graph(
        "Keys that cannot be had",
        says,
        [(rate("dayfly_evidence_refused_total", 'reason="unavailable"'), "refused")],
        unit="ops",
        alert="DayflyEvidenceKeysUnavailable",
    )
    says = "When certificates expire that Dayfly shows."
    left = f"min by (namespace, job, use) ({of('dayfly_certificate_expiry_timestamp_seconds')}) - time()"
    board.graph(
        "Certificates",
        says,
        [(left, "{{use}}")],
        unit="s",
        at=steps((600, YELLOW), (604800, GREEN), first=RED),
        alert="DayflyCertificateExpiring",
    )
    states = words(_0=("heard", GREEN), _1=("silent", RED))
    says = "Whether each stream was heard within what it promised, at one replica at least."
    board.states(
        "Streams of signals",
        says,
        [(f"min by (namespace, job, stream) ({of('dayfly_signal_stream_silent')})", "{{stream}}")],
        states,
        alert="DayflySignalStreamSilent",
    )
    board.graph(
        "Signals",
        "By what became of them.",
        [(rate("dayfly_signals_total", by="stream, outcome"), "{{stream}}: {{outcome}}")],
        unit="ops",
        stack=True,
        alert="DayflySignalsFailing",
    )
    board.graph(
        "Polls that failed",
        "By stream.",
        [(rate("dayfly_signal_poll_failures_total", by="stream"), "{{stream}}")],
        unit="ops",
        alert="DayflySignalsFailing",
    )
    return board
