"""The handbook of the sandbox (docs/sandbox.md), written from the scenarios themselves."""

import json
from collections.abc import Iterable
from typing import Final

from reward_sandbox.control import ACTIONS
from reward_sandbox.scenario import Control, Expect, Scenario
from reward_sandbox.shops import Shop, shops

CLOCK: Final = (
    "Move the books' time of all suppliers forward (seconds): stages, token ends, warranties and callback plans come "
    "due. Requests' time stamps are still checked by the present time, and the service's own clock stays: it looks "
    "when its plan says so, or when a callback comes."
)

INTRODUCTION: Final = """\
<!-- Written by `reward-sandbox handbook` from the scenarios; don't edit. -->

# The supplier sandbox

`reward-sandbox` plays the five suppliers on one local port (`make run` starts it on <http://127.0.0.1:8090/>).
It speaks their real wire: it checks signatures, tokens, fields and clocks as strictly as their pages allow,
keeps books of its own, sends callbacks by their repeat plans, and goes wrong in every way that is documented or
was seen. It shares no code with the adapters, so that a misreading made in both can't hide.

There are {count} scenarios. Each is played against the real server by `make test`
(`tests/service/test_scenarios.py`), which compares the order's state, the cards, the charges in the supplier's
books, the operator's alerts and the answers to callbacks with what stands here.

## Choosing a scenario

* **By product.** The catalogue of `make run` has one product per scenario, `SUPPLIER/SCENARIO`, as in `kasushou/card`.
  From any client:

  ```sh
  rewardctl products --search kasushou/
  rewardctl order create kasushou/card
  rewardctl order create dushu/membership --phone 13800138000
  ```

* **By recipient.** Top-ups can be steered without touching the product: a *magic recipient* gives any top-up of the
  same supplier and the same kind of recipient the course of another one; price and product stay those of the order:

  ```sh
  rewardctl order create dushu/membership --phone {magic}    # ends like dushu/locked-phone
  ```

* **By the control API**, for whatever comes next, whoever orders it: `POST /control/SUPPLIER/ACTION` with a JSON body.
  `GET /control` shows what is ordered, `POST /control/reset` empties all books and lifts everything.

Products are named by the supplier's number, which stands at each scenario. Some scenarios are about the account and
not about one order (tokens, signatures, addresses, our clock): the service then pauses the account for a minute at
a time, and every order there waits. `POST /control/reset` and `rewardctl suppliers resume ACCOUNT --reason …` end
it. Under `make run` the service has its real plans: a look after a lost answer comes within seconds, a proof of
absence takes minutes.

Everything that looks random follows from `--seed` and the order's number: the same run gives the same cards.

### Control actions

| Action | Body, for example | Meaning |
| --- | --- | --- |
{actions}
| `POST /control/clock` | `{{"forward": 86400}}` | {clock} |

### The books

`GET /books/SUPPLIER` tells what was bought, under which number, what was charged, delivered and paid back,
every callback with its answer, and every create call that bought nothing. Tests judge the service by them,
never by its own word.

## How to read the tables

*Alerts* are the kinds of `reward_alerts_total`; *reviews* why a person has to look ([the order's life](order-life.md)).
"1 charge" is one order in the supplier's books that was charged. A scenario that needs more than its product says so:
control actions before ordering, or keys of the supplier account.
"""


def handbook() -> str:
    """The whole page."""
    actions = "\n".join(
        f"| `{name}` | {_code(action.example)} | {_cell(action.meaning)} |" for name, action in ACTIONS.items()
    )
    count = sum(len(shop.scenarios) for shop in shops().values())
    parts = [INTRODUCTION.format(count=count, actions=actions, clock=CLOCK, magic=_magic("dushu", "locked-phone"))]
    for kind, shop in shops().items():
        parts += _supplier(kind, shop)
    return "\n".join(parts)


def _magic(kind: str, name: str) -> str:
    return next(scenario.magic for scenario in shops()[kind].scenarios if scenario.name == name)


def _supplier(kind: str, shop: Shop) -> list[str]:
    scenarios = shop.scenarios
    lines = [f"## {shop.title}", "", f"Adapter `{kind}`, {len(scenarios)} scenarios.", ""]
    if shop.callbacks:
        names = ", ".join(f"`{name}`" for name in shop.callbacks)
        lines += [f"Callbacks that the control API can send: {names}.", ""]
    lines += ["### What it does", "", "| | Behaviour | Scenarios |", "| --- | --- | --- |"]
    for number, meaning in shop.behaviours.items():
        shown = [f"[`{one.name}`](#{_anchor(kind, one)})" for one in scenarios if number in one.shows]
        left = [f"open: {_cell(shop.left_open[number])}"] if number in shop.left_open else []
        where = "<br>".join([*([", ".join(shown)] if shown else []), *left])
        lines.append(f"| {number} | {_cell(meaning)} | {where} |")
    lines += ["", "### Its codes and states", "", "| On the wire | Meaning | For example |", "| --- | --- | --- |"]
    for code, meaning in shop.codes.items():
        example = next((one.name for one in scenarios if code in one.codes), "")
        lines.append(f"| `{code}` | {_cell(meaning)} | `{example}` |")
    lines += [
        "",
        "### Its scenarios",
        "",
        "| Scenario | On the wire | What the service makes of it |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {_chosen(kind, one)} | {_wire(one)} | {_made(one.expect)} |" for one in scenarios]
    return [*lines, ""]


def _anchor(kind: str, scenario: Scenario) -> str:
    return f"{kind}-{scenario.name}"


def _chosen(kind: str, scenario: Scenario) -> str:
    words = [f'<a id="{_anchor(kind, scenario)}"></a>`{kind}/{scenario.name}`', f"product {scenario.product}"]
    if scenario.magic:
        words.append(f"recipient `{scenario.magic}`")
    if scenario.quantity > 1:
        words.append(f"quantity {scenario.quantity}")
    if scenario.form:
        words.append("with " + ", ".join(f"`{key}`" for key in scenario.form))
    return "<br>".join(words)


def _wire(scenario: Scenario) -> str:
    words = [_cell(scenario.description)]
    if scenario.controls:
        words.append(f"Before ordering: {_orders(scenario.controls)}.")
    if scenario.account:
        words.append(
            "Account keys: " + ", ".join(f"`{key} = {_plain(value)}`" for key, value in scenario.account.items())
        )
    if not scenario.calls_back:
        words.append('With `callbacks.public_url = ""`.')
    if scenario.cancel:
        words.append("The client cancels once it is taken.")
    if scenario.after:
        words.append(f"Once {scenario.after_state}: {_orders(scenario.after)}.")
    if scenario.lapse:
        words.append(f"Takes {_duration(scenario.lapse)}.")
    return "<br>".join(words)


def _orders(controls: Iterable[Control]) -> str:
    return ", ".join(f"`{one.action}` {_code(json.dumps(dict(one.body), ensure_ascii=False))}" for one in controls)


def _made(expect: Expect) -> str:
    ended = f"**{expect.state}**" + (f" ({expect.failure})" if expect.failure else "")
    words = [ended, _counted(expect.charges, "charge")]
    if expect.cards:
        words.append(_counted(expect.cards, "card"))
    if expect.refunds:
        words.append(f"{expect.refunds} paid back")
    if expect.requests != 1:
        words.append(_counted(expect.requests, "create call"))
    if expect.after_sale:
        words.append(f"after sale: {expect.after_sale}")
    if expect.reviews:
        words.append(f"reviews: {', '.join(expect.reviews)}")
    if expect.alerts:
        words.append(f"alerts: {', '.join(expect.alerts)}")
    if expect.callbacks:
        taken = sum(expect.callbacks)
        words.append(f"{_counted(len(expect.callbacks), 'callback')}, {taken} acknowledged")
    return "; ".join(words) + (f". {_cell(expect.says)}" if expect.says else "")


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours" if hours >= 1 else f"{seconds:g} s"


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
