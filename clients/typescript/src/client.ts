import { randomUUID } from "node:crypto";
import { setMaxListeners } from "node:events";
import { create, type DescMessage, type DescMethodUnary, type MessageShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ChannelOptions } from "@grpc/grpc-js";
import { type Backoff, DEFAULT_BACKOFF } from "./backoff.js";
import { type Address, Connection, isCertified, type TlsOptions } from "./connection.js";
import { ClosedError, RewardError, WaitTimeoutError } from "./errors.js";
import type { WatchEvent } from "./events.js";
import {
  CatalogService,
  GetProductRequestSchema,
  ListProductsRequestSchema,
  type Product,
  ProductSchema,
} from "./gen/rewardservice/v1/catalog_service_pb.js";
import {
  type Order,
  OrderSchema,
  OrderState,
  OrderView,
  ProductKind,
  type Recipient,
} from "./gen/rewardservice/v1/order_pb.js";
import {
  CancelOrderRequestSchema,
  CreateOrderRequestSchema,
  GetOrderRequestSchema,
  ListOrdersRequestSchema,
  ListOrderUpdatesRequestSchema,
  type ListOrderUpdatesResponse,
  RewardService,
  StreamOrderUpdatesRequestSchema,
  StreamStart,
} from "./gen/rewardservice/v1/reward_service_pb.js";
import { type Credential, credential, type Key } from "./key.js";
import { call } from "./retry.js";
import { isSettled, stateName, yuan } from "./values.js";
import { Watch } from "./watch.js";

const DEFAULT_TARGET = "127.0.0.1:50051";
const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_HEARTBEAT_MS = 15_000;
const SILENT_HEARTBEATS = 3;

export interface RewardClientOptions {
  /** A gRPC target, as in "rewards.internal:50051". Default: where `make run` serves, 127.0.0.1:50051. */
  readonly target?: string | undefined;
  /**
   * The API key or token, or a function that is asked for it anew for each call and each connection of a stream; what
   * that throws is thrown. Default: the variable REWARDSERVICE_KEY; else none if `tls.cert` says who calls; else
   * "dev-key" for a server on this machine only.
   */
  readonly key?: Key | undefined;
  /** TLS; `true` for a server with a public certificate. Without it key and cards are readable on the way. */
  readonly tls?: TlsOptions | boolean | undefined;
  /** How long a unary call may take, retries included. Default 10,000. */
  readonly timeoutMs?: number | undefined;
  /** The pace of retries and reconnects. */
  readonly backoff?: Partial<Backoff> | undefined;
  /** Further options of the gRPC channel. */
  readonly channelOptions?: ChannelOptions | undefined;
}

export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** How long this call may take, retries included. */
  readonly timeoutMs?: number | undefined;
}

/** One of the two ids of an order. */
export type OrderName =
  | { readonly orderId: string; readonly clientOrderId?: undefined }
  | { readonly clientOrderId: string; readonly orderId?: undefined };

export interface NewOrder {
  readonly productId: string;
  /** Default 1. */
  readonly quantity?: number | undefined;
  /**
   * Your own id for the order, stored before the call. Without one a new UUID is made: it covers the retries inside
   * this call, and nothing after it (on an error it is in `RewardError.clientOrderId`).
   */
  readonly clientOrderId?: string | undefined;
  /** From `phone()`, `qq()` or `account()`, as `Product.recipientKind` asks. */
  readonly recipient?: Recipient | undefined;
  /** In yuan, as in "98.50". */
  readonly maxUnitPrice?: string | undefined;
  readonly supplierParameters?: Readonly<Record<string, string>> | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /**
   * How long (0 to 30,000) the server may wait for the order to end before it answers; comes on top of the time-out.
   */
  readonly waitMs?: number | undefined;
  readonly view?: OrderView | undefined;
}

export interface CreatedOrder {
  readonly order: Order;
  /** Whether the order existed before this call. */
  readonly replayed: boolean;
  /** Every later update comes after it. */
  readonly resumeToken: string;
}

export interface OrderFilter {
  readonly states?: readonly OrderState[] | undefined;
  readonly productId?: string | undefined;
  readonly supplier?: string | undefined;
  readonly createdAfter?: Date | undefined;
  readonly createdBefore?: Date | undefined;
  /** 1 to 200; the server chooses unless given. */
  readonly pageSize?: number | undefined;
}

export interface UpdatesFilter {
  /** The token to go on after; without it from the oldest update that is kept. */
  readonly after?: string | undefined;
  readonly orderIds?: readonly string[] | undefined;
  readonly clientOrderIds?: readonly string[] | undefined;
  /** 1 to 1,000; the server chooses unless given. */
  readonly limit?: number | undefined;
  readonly view?: OrderView | undefined;
}

export interface WatchOptions {
  /** Only these orders; with neither kind of id all of the client's. */
  readonly orderIds?: readonly string[] | undefined;
  /** Only these, by your own ids; those that aren't ordered yet are awaited. */
  readonly clientOrderIds?: readonly string[] | undefined;
  /** Default: after `resumeToken`, else with a snapshot of the orders as they are. */
  readonly start?: StreamStart | undefined;
  readonly resumeToken?: string | undefined;
  /** FULL, the default for clients that may read cards, shows them. */
  readonly view?: OrderView | undefined;
  /** End once every selected order has ended; needs ids. */
  readonly untilTerminal?: boolean | undefined;
  /** 1,000 to 60,000, default 15,000. A connection silent for three times as long is left. */
  readonly heartbeatIntervalMs?: number | undefined;
  /** After how long of failing the last error is thrown. Default: never. */
  readonly giveUpAfterMs?: number | undefined;
}

/**
 * A connection to RewardService: one for the whole program, closed at its end.
 *
 * Every method throws RewardError for what the server or the way to it did, and other errors for arguments that
 * can't be put into a request.
 */
export class RewardClient {
  readonly #address: Address;
  readonly #credential: Credential;
  readonly #timeoutMs: number;
  readonly #backoff: Backoff;
  readonly #underWay = new Set<AbortController>();
  #connection: Connection;
  #isClosed = false;

  constructor({
    target = DEFAULT_TARGET,
    key,
    tls = false,
    timeoutMs,
    backoff,
    channelOptions,
  }: RewardClientOptions = {}) {
    this.#credential = credential(target, key, isCertified(tls));
    this.#address = { target, tls, channelOptions: channelOptions ?? {} };
    this.#timeoutMs = timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#backoff = {
      initialMs: backoff?.initialMs ?? DEFAULT_BACKOFF.initialMs,
      maxMs: backoff?.maxMs ?? DEFAULT_BACKOFF.maxMs,
      attempts: backoff?.attempts ?? DEFAULT_BACKOFF.attempts,
    };
    this.#connection = new Connection(this.#address);
  }

  /** Closes the connection. Calls and watches under way end with ClosedError. */
  close(): void {
    this.#isClosed = true;
    for (const controller of this.#underWay) {
      controller.abort(new ClosedError());
    }
    this.#connection.close();
  }

  /** Orders a reward: once, however often this is called with the same `clientOrderId`. */
  async createOrder(order: NewOrder, options: CallOptions = {}): Promise<CreatedOrder> {
    const { clientOrderId = randomUUID(), maxUnitPrice, waitMs = 0, quantity = 1, ...others } = order;
    const request = create(CreateOrderRequestSchema, {
      ...others,
      clientOrderId,
      quantity,
      ...(maxUnitPrice !== undefined && { maxUnitPrice: yuan(maxUnitPrice) }),
      ...(waitMs && { wait: durationFromMs(waitMs) }),
    });
    const timeoutMs = (options.timeoutMs ?? this.#timeoutMs) + waitMs;
    try {
      const answer = await this.#call(RewardService.method.createOrder, request, { ...options, timeoutMs });
      return { order: present(answer.order), replayed: answer.replayed, resumeToken: answer.resumeToken };
    } catch (error) {
      if (error instanceof RewardError) {
        error.clientOrderId = clientOrderId;
      }
      throw error;
    }
  }

  /** Reads one order. View FULL shows its cards, EXPLAINED its purchases. */
  async getOrder(order: OrderName & { readonly view?: OrderView | undefined }, options?: CallOptions): Promise<Order> {
    const request = create(GetOrderRequestSchema, { id: oneId(order), view: order.view ?? OrderView.UNSPECIFIED });
    return present((await this.#call(RewardService.method.getOrder, request, options)).order);
  }

  /**
   * Cancels what can still be cancelled of an order and returns it as it is now.
   *
   * If nothing was sent to a supplier it is CANCELLED. Otherwise `cancelRequestedTime` is set, nothing new is sent,
   * and the order ends as the supplier's evidence says: follow it with `watch` or `waitFor`. It may be repeated.
   * Throws ORDER_NOT_CANCELLABLE when the order has ended otherwise.
   */
  async cancelOrder(
    order: OrderName & { readonly view?: OrderView | undefined },
    options?: CallOptions,
  ): Promise<Order> {
    const request = create(CancelOrderRequestSchema, { id: oneId(order), view: order.view ?? OrderView.UNSPECIFIED });
    return present((await this.#call(RewardService.method.cancelOrder, request, options)).order);
  }

  /** Yields the orders that fit every filter, newest first, cards masked, page after page. */
  async *listOrders(filter: OrderFilter = {}, options?: CallOptions): AsyncGenerator<Order, void, undefined> {
    const { states, createdAfter, createdBefore, ...others } = filter;
    const request = create(ListOrdersRequestSchema, {
      ...others,
      states: [...(states ?? [])],
      ...(createdAfter && { createdAfter: timestampFromDate(createdAfter) }),
      ...(createdBefore && { createdBefore: timestampFromDate(createdBefore) }),
    });
    do {
      const page = await this.#call(RewardService.method.listOrders, request, options);
      yield* page.orders;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /**
   * One page of the updates after a token, oldest first. Go on with `after: page.resumeToken` while `page.more`. Throws
   * OUT_OF_RANGE for a token that can't be continued.
   */
  async listOrderUpdates(filter: UpdatesFilter = {}, options?: CallOptions): Promise<ListOrderUpdatesResponse> {
    const { orderIds = [], clientOrderIds = [], ...others } = filter;
    const request = create(ListOrderUpdatesRequestSchema, {
      ...others,
      orderIds: [...orderIds],
      clientOrderIds: [...clientOrderIds],
    });
    return await this.#call(RewardService.method.listOrderUpdates, request, options);
  }

  /** Yields the products by id, page after page; of one kind if asked. */
  async *products(
    filter: { readonly kind?: ProductKind; readonly pageSize?: number } = {},
    options?: CallOptions,
  ): AsyncGenerator<Product, void, undefined> {
    const request = create(ListProductsRequestSchema, filter);
    do {
      const page = await this.#call(CatalogService.method.listProducts, request, options);
      yield* page.products;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /** Reads one product. */
  async getProduct(productId: string, options?: CallOptions): Promise<Product> {
    const request = create(GetProductRequestSchema, { productId });
    return (await this.#call(CatalogService.method.getProduct, request, options)).product ?? create(ProductSchema);
  }

  /**
   * Yields what happens to the selected orders, in order and once.
   *
   * It survives restarts, cut and silent connections: it connects again with the last token and leaves out what came
   * before. Keep the token of the last event that was dealt with, to go on after a restart of your own program. A token
   * that the server can't continue is answered with a "reset" event and a snapshot.
   *
   * Leave the loop with `break`, or abort the signal: then its reason is thrown. Errors that no new connection mends
   * are thrown at once.
   */
  async *watch(
    watched: WatchOptions = {},
    { signal }: Pick<CallOptions, "signal"> = {},
  ): AsyncGenerator<WatchEvent, void, undefined> {
    const operation = this.#begin(signal);
    try {
      yield* this.#events(watched, operation);
    } finally {
      operation.end();
    }
  }

  /**
   * Waits until an order has ended or needs a review, and returns it (with its cards, if they may be read). An order
   * that isn't ordered yet is awaited by its `clientOrderId`. Throws WaitTimeoutError after `timeoutMs`, if that is
   * given; the order goes on.
   */
  async waitFor(
    order: OrderName & { readonly view?: OrderView | undefined },
    { signal, timeoutMs }: CallOptions = {},
  ): Promise<Order> {
    const { case: kind, value: id } = oneId(order);
    const operation = this.#begin(signal);
    let seen: Order | undefined;
    const giveUp = () => {
      const state = seen === undefined ? "was never seen" : `is ${stateName(seen.state)}`;
      operation.abort(
        new WaitTimeoutError(`order ${id} ${state} after ${Number(timeoutMs) / 1000} s of waiting`, seen),
      );
    };
    const timer = timeoutMs === undefined ? undefined : setTimeout(giveUp, timeoutMs);
    try {
      const selection = kind === "orderId" ? { orderIds: [id] } : { clientOrderIds: [id] };
      for await (const event of this.#events({ ...selection, view: order.view ?? OrderView.UNSPECIFIED }, operation)) {
        if (event.type === "snapshot" || event.type === "update") {
          seen = event.order;
          if (isSettled(seen)) {
            return seen;
          }
        }
      }
    } finally {
      clearTimeout(timer);
      operation.end();
    }
    throw new Error("a stream without untilTerminal doesn't end");
  }

  #events(watched: WatchOptions, { signal }: Operation): AsyncGenerator<WatchEvent, void, undefined> {
    const {
      orderIds = [],
      clientOrderIds = [],
      heartbeatIntervalMs = DEFAULT_HEARTBEAT_MS,
      giveUpAfterMs,
      ...others
    } = watched;
    const request = create(StreamOrderUpdatesRequestSchema, {
      ...others,
      orderIds: [...orderIds],
      clientOrderIds: [...clientOrderIds],
      heartbeatInterval: durationFromMs(heartbeatIntervalMs),
    });
    const watch = new Watch(request, {
      credential: this.#credential,
      shared: () => this.#connection,
      unshared: () => new Connection(this.#address),
      backoff: this.#backoff,
      silenceMs: SILENT_HEARTBEATS * heartbeatIntervalMs,
      giveUpAfterMs,
      signal,
    });
    return watch.events();
  }

  async #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    { signal, timeoutMs = this.#timeoutMs }: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const operation = this.#begin(signal);
    try {
      return await call(method, request, {
        credential: this.#credential,
        connection: () => this.#connection,
        unanswered: (connection) => this.#leaveIfStuck(connection),
        backoff: this.#backoff,
        timeoutMs,
        signal: operation.signal,
      });
    } finally {
      operation.end();
    }
  }

  /**
   * gRPC for Node.js waits for ever for a connection that was accepted and says nothing: the next call gets another.
   */
  #leaveIfStuck(connection: Connection): void {
    if (connection === this.#connection && connection.isConnecting) {
      this.#connection = new Connection(this.#address);
      connection.close();
    }
  }

  /** Something that the caller's signal ends with the signal's reason, and `close` with ClosedError. */
  #begin(signal: AbortSignal | undefined): Operation {
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    if (this.#isClosed) {
      controller.abort(new ClosedError());
    } else if (signal?.aborted) {
      abort();
    }
    if (signal !== undefined) {
      // One signal may stand for many calls; the listeners go with them, so that Node.js has no leak to warn of.
      setMaxListeners(0, signal);
      signal.addEventListener("abort", abort);
    }
    this.#underWay.add(controller);
    return {
      signal: controller.signal,
      abort: (reason) => controller.abort(reason),
      end: () => {
        signal?.removeEventListener("abort", abort);
        this.#underWay.delete(controller);
      },
    };
  }
}

interface Operation {
  readonly signal: AbortSignal;
  readonly abort: (reason: Error) => void;
  readonly end: () => void;
}

function oneId({ orderId, clientOrderId }: OrderName) {
  if (orderId !== undefined && clientOrderId === undefined) {
    return { case: "orderId", value: orderId } as const;
  }
  if (clientOrderId !== undefined && orderId === undefined) {
    return { case: "clientOrderId", value: clientOrderId } as const;
  }
  throw new TypeError("give either orderId or clientOrderId");
}

/** The message that every answer carries; empty if one doesn't. */
function present(order: Order | undefined): Order {
  return order ?? create(OrderSchema);
}
