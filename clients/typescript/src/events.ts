import { inspect } from "node:util";
import type { Order } from "./gen/rewardservice/v1/order_pb.js";
import { stateName } from "./values.js";

/** An order changed. `order` is whole, as of its version; continue after it with `resumeToken`. */
export interface UpdateEvent {
  readonly type: "update";
  readonly order: Order;
  readonly resumeToken: string;
}

/** An order as it is, at the beginning of a stream. It carries no token: "snapshotEnd" does. */
export interface SnapshotEvent {
  readonly type: "snapshot";
  readonly order: Order;
}

/** The snapshot is complete; continue after it with `resumeToken`. */
export interface SnapshotEndEvent {
  readonly type: "snapshotEnd";
  readonly resumeToken: string;
}

/** Nothing happened for a while. Everything before `resumeToken` was searched; continue there. */
export interface HeartbeatEvent {
  readonly type: "heartbeat";
  readonly resumeToken: string;
}

/**
 * The log could not be continued at the last token: updates may be missing, and a snapshot follows. Forget stored
 * tokens.
 *
 * `reason` is RESUME_TOKEN_EXPIRED (the log was pruned beyond the token) or LOG_REWOUND (the server was restored from a
 * backup: orders may come again with versions that were seen before, and other content).
 */
export interface ResetEvent {
  readonly type: "reset";
  readonly reason: string;
}

/** What `RewardClient.watch` yields. New types may be added. */
export type WatchEvent = UpdateEvent | SnapshotEvent | SnapshotEndEvent | HeartbeatEvent | ResetEvent;

/** The event, which shows only the outline of its order when it is printed: logs are no place for cards. */
export function discreet<E extends UpdateEvent | SnapshotEvent>(event: E): E {
  const { orderId, version, state } = event.order;
  const outline = { ...event, order: `${orderId} version ${version} ${stateName(state)}` };
  return Object.defineProperty(event, inspect.custom, { value: () => outline, enumerable: false });
}
