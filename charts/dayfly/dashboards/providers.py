"""What each provider does with what it is asked."""

from panels import GREEN, HERE, RED, Dashboard, increase, of, rate, steps, variable, words
from shared import disagreements, happenings, orphans_over_time, stuck_over_time


def providers() -> Dashboard:
    board = Dashboard(
        "providers",
        "providers",
        "What each provider does with what it is asked: makes, prolongs, ends and lists credentials.",
    )
    board.variables.append(
        variable("provider", "Provider", f"label_values(dayfly_stuck_leases{{{HERE}}}, provider)", all_value=".*")
    )
    happenings(board)
    chosen, calls = 'provider=~"$provider"', "dayfly_provider_calls_total"
    board.row("What cannot be ended")
    stuck_over_time(board, chosen, says="They may still work.")
    orphans_over_time(board, chosen, says="Credentials that should not be there and could not be ended.")
    states = words(_0=("answers", GREEN), _1=("down", RED))
    expr = f"max by (namespace, job, provider) ({of('dayfly_provider_down', chosen)})"
    board.states(
        "Down",
        "From the fifth failure in a row until it answers, at one replica at least. Who never failed is not shown.",
        [(expr, "{{provider}}")],
        states,
        alert="DayflyProviderDown",
    )

    board.row("Calls")
    board.graph("Calls", "By provider.", [(rate(calls, chosen, by="provider"), "{{provider}}")], unit="ops", stack=True)
    says = "Share of calls without the answer that was asked for: not even `refused`, or not asked."
    failed = rate(calls, chosen, 'result!~"ok|refused|unfit"', by="provider")
    failed = f"{failed} / {rate(calls, chosen, by='provider')}"
    board.graph(
        "Calls that fail",
        says,
        [(failed, "{{provider}}")],
        unit="percentunit",
        at=steps((0.05, RED)),
        most=1,
        alert="DayflyProviderDown",
    )
    says = "`crowded`: no place was free; `throttled`: it said that it is too much; `down`: it was not asked."
    board.graph(
        "Results",
        says,
        [(rate(calls, chosen, 'result!="ok"', by="provider, result"), "{{provider}}: {{result}}")],
        unit="ops",
        stack=True,
    )
    board.graph(
        "Made and prolonged",
        "Credentials, by provider.",
        [(rate(calls, chosen, 'call=~"mint|renew"', 'result="ok"', by="provider, call"), "{{provider}}: {{call}}")],
        unit="ops",
    )
    board.graph(
        "Ended",
        "Calls that end, and looks whether it is so.",
        [(rate(calls, chosen, 'call=~"revoke|probe"', 'result="ok"', by="provider, call"), "{{provider}}: {{call}}")],
        unit="ops",
    )
    board.graph(
        "Not ended",
        "Calls that should have ended something.",
        [
            (
                rate(calls, chosen, 'call=~"revoke|probe"', 'result!="ok"', by="provider, call, result"),
                "{{provider}}: {{call}}, {{result}}",
            )
        ],
        unit="ops",
        alert="DayflyEndsOverdue",
    )

    board.row("Compared with the ledger")
    disagreements(board, "What they disagreed on, and whether it was ended.", chosen)
    says = "Comparisons that did not come to their end."
    board.graph(
        "Failed comparisons",
        says,
        [
            (
                increase("dayfly_reconcile_failures_total", chosen, by="provider"),
                "{{provider}}",
            )
        ],
        alert="DayflyReconcileFailing",
    )
    board.graph(
        "Inventories",
        "Lists of all that a provider holds.",
        [(rate(calls, chosen, 'call="inventory"', by="provider, result"), "{{provider}}: {{result}}")],
        unit="ops",
    )
    return board
