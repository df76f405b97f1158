/** The client of RewardService. What is generated from the contract is in "@rewardservice/client/v1". */
export type { Backoff } from "./backoff.js";
export {
  type CallOptions,
  type CreatedOrder,
  type NewOrder,
  type OrderFilter,
  type OrderName,
  RewardClient,
  type RewardClientOptions,
  type UpdatesFilter,
  type WatchOptions,
} from "./client.js";
export type { TlsOptions } from "./connection.js";
export { ClosedError, type Code, type FieldViolation, RewardError, WaitTimeoutError } from "./errors.js";
export type { HeartbeatEvent, ResetEvent, SnapshotEndEvent, SnapshotEvent, UpdateEvent, WatchEvent } from "./events.js";
export { type Product, RecipientKind } from "./gen/rewardservice/v1/catalog_service_pb.js";
export { type Card, type Order, OrderState, OrderView, ProductKind } from "./gen/rewardservice/v1/order_pb.js";
export { StreamStart } from "./gen/rewardservice/v1/reward_service_pb.js";
export type { Key } from "./key.js";
export { account, isSettled, isTerminal, phone, qq, stateName, yuan, yuanText } from "./values.js";
