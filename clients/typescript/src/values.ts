import { create } from "@bufbuild/protobuf";
import { type Money, MoneySchema } from "./gen/google/type/money_pb.js";
import { type Order, OrderState, type Recipient, RecipientSchema } from "./gen/rewardservice/v1/order_pb.js";

const TERMINAL: ReadonlySet<OrderState> = new Set([
  OrderState.FULFILLED,
  OrderState.PARTIALLY_FULFILLED,
  OrderState.FAILED,
  OrderState.CANCELLED,
]);

/** Whether the order has ended: nothing more is bought or delivered. */
export function isTerminal(order: Order): boolean {
  return TERMINAL.has(order.state);
}

/** Whether waiting is over: the order has ended, or a person has to look at it. */
export function isSettled(order: Order): boolean {
  return isTerminal(order) || order.state === OrderState.NEEDS_REVIEW;
}

/** A state as in "FULFILLED"; its number when it is newer than this client. */
export function stateName(state: OrderState): string {
  return OrderState[state] ?? String(state);
}

/** A phone number, as in `phone("+86", "13800138000")`. */
export function phone(areaCode: string, number: string): Recipient {
  return create(RecipientSchema, { recipient: { case: "phone", value: { areaCode, number } } });
}

/** A QQ number. */
export function qq(number: string): Recipient {
  return create(RecipientSchema, { recipient: { case: "qq", value: number } });
}

/** An account name at the reward's own service. */
export function account(name: string): Recipient {
  return create(RecipientSchema, { recipient: { case: "account", value: name } });
}

/**
 * An amount in yuan, as in `yuan("98.50")`. Throws TypeError for what isn't one; a number isn't, because 0.1 + 0.2
 * isn't 0.3.
 */
export function yuan(amount: string): Money {
  const found = typeof amount === "string" ? /^(-?)(\d{1,15})(?:\.(\d{1,9}))?$/.exec(amount) : null;
  if (found === null) {
    throw new TypeError("an amount of yuan is text such as '98.50', with at most nine decimals");
  }
  const [, minus, units = "", nanos = ""] = found;
  const sign = minus ? -1 : 1;
  return create(MoneySchema, {
    currencyCode: "CNY",
    units: BigInt(sign) * BigInt(units),
    nanos: sign * Number(nanos.padEnd(9, "0")) + 0,
  });
}

/** The amount in yuan that a message of the service holds, as in "98.50": without needless zeros, but two decimals. */
export function yuanText(money: Money): string {
  const isNegative = money.units < 0n || money.nanos < 0;
  const units = money.units < 0n ? -money.units : money.units;
  const decimals = String(Math.abs(money.nanos))
    .padStart(9, "0")
    .replace(/0{1,7}$/, "");
  return `${isNegative ? "-" : ""}${units}.${decimals}`;
}
