import { clone } from "@bufbuild/protobuf";
import { type Backoff, pause, sleep } from "./backoff.js";
import type { Connection, Incoming } from "./connection.js";
import { fromFailure, isDoubtful, isRetryable, RewardError } from "./errors.js";
import { discreet, type WatchEvent } from "./events.js";
import type { Order } from "./gen/rewardservice/v1/order_pb.js";
import {
  RewardService,
  StreamOrderUpdatesRequestSchema,
  StreamStart,
  type StreamOrderUpdatesRequest,
  type StreamOrderUpdatesResponse,
} from "./gen/rewardservice/v1/reward_service_pb.js";
import type { Credential } from "./key.js";

/** What a watch needs to know. */
export interface WatchContext {
  /** Who calls, asked for before every stream. */
  readonly credential: Credential;
  /** The connection of the whole client. */
  readonly shared: () => Connection;
  /** Makes a connection that nobody else uses. */
  readonly unshared: () => Connection;
  readonly backoff: Backoff;
  /** How long a connection may say nothing. */
  readonly silenceMs: number;
  readonly giveUpAfterMs: number | undefined;
  readonly signal: AbortSignal;
}

// Orders whose version is remembered. A token resumes exactly, so repeats come from the last connection only.
const REMEMBERED = 65_536;

/** One stream of updates for the caller, over as many connections as it takes. */
export class Watch {
  readonly #context: WatchContext;
  readonly #request: StreamOrderUpdatesRequest;
  readonly #versions = new Map<string, bigint>();
  #token: string;
  #inSnapshot = false;
  #failures = 0;
  #failingSince = 0;
  #own: Connection | undefined;
  #stream: Incoming<StreamOrderUpdatesResponse> | undefined;
  #key: string | undefined;
  /** How a stream was refused that nothing came over since, and with which key. */
  #refusal: { readonly key: string | undefined; readonly error: RewardError } | undefined;

  constructor(request: StreamOrderUpdatesRequest, context: WatchContext) {
    this.#request = request;
    this.#context = context;
    this.#token = CONTINUES.has(request.start) ? request.resumeToken : "";
  }

  /** Yields until the server ends the stream for good, or an error comes that a new connection can't mend. */
  async *events(): AsyncGenerator<WatchEvent, void, undefined> {
    const { signal } = this.#context;
    const cancel = () => this.#stream?.cancel();
    signal.addEventListener("abort", cancel);
    try {
      for (;;) {
        signal.throwIfAborted();
        const event = await this.#next();
        signal.throwIfAborted();
        if (event === "end") {
          return;
        }
        if (event !== undefined) {
          yield event;
        }
      }
    } finally {
      signal.removeEventListener("abort", cancel);
      cancel();
      this.#own?.close();
    }
  }

  /** The next event; undefined for a message or a failure that the caller has nothing to hear of. */
  async #next(): Promise<WatchEvent | "end" | undefined> {
    try {
      const message = await this.#receive();
      if (message === undefined) {
        return "end";
      }
      this.#failures = 0;
      this.#refusal = undefined;
      return this.#take(message);
    } catch (failure) {
      this.#context.signal.throwIfAborted();
      const error = failure instanceof RewardError ? failure : fromFailure(failure);
      this.#stream?.cancel();
      this.#stream = undefined;
      if (this.#mustStartOver(error)) {
        return { type: "reset", reason: error.reason };
      }
      if (!this.#mayHaveNewKey(error)) {
        await this.#pause(error);
      }
      return undefined;
    }
  }

  async #open(): Promise<Incoming<StreamOrderUpdatesResponse>> {
    const { credential, silenceMs, signal } = this.#context;
    this.#key = await credential.ask(silenceMs, signal);
    if (this.#refusal !== undefined && this.#refusal.key === this.#key) {
      throw this.#refusal.error;
    }
    const request = clone(StreamOrderUpdatesRequestSchema, this.#request);
    if (this.#token) {
      request.start = StreamStart.AFTER;
      request.resumeToken = this.#token;
    }
    this.#inSnapshot = !this.#token && BEGINS_WITH_SNAPSHOT.has(request.start);
    const connection = this.#own ?? this.#context.shared();
    return connection.stream(RewardService.method.streamOrderUpdates, request, this.#key);
  }

  /** The next message; undefined when the stream is complete. */
  async #receive(): Promise<StreamOrderUpdatesResponse | undefined> {
    const stream = (this.#stream ??= await this.#open());
    // Who aborts while the key is asked for finds no stream to cancel.
    this.#context.signal.throwIfAborted();
    let isSilent = false;
    const timer = setTimeout(() => {
      isSilent = true;
      stream.cancel();
    }, this.#context.silenceMs);
    try {
      const { done, value } = await stream.next();
      if (!done) {
        return value;
      }
    } catch (failure) {
      if (!isSilent) {
        throw failure;
      }
      // The connection may be dead without either side knowing: the next stream gets a new one, not this one.
      this.#leaveConnection();
      throw new RewardError(
        `nothing came for ${this.#context.silenceMs / 1000} s, not even a heartbeat`,
        "UNAVAILABLE",
      );
    } finally {
      clearTimeout(timer);
    }
    if (this.#request.untilTerminal) {
      return undefined;
    }
    throw new RewardError("the stream was ended on the way", "UNAVAILABLE");
  }

  #leaveConnection(): void {
    this.#own?.close();
    this.#own = this.#context.unshared();
  }

  /**
   * Whether to ask for a key once more: a token may have ended with its stream. The next stream is opened with another
   * one, or else the error is thrown.
   */
  #mayHaveNewKey(error: RewardError): boolean {
    if (error.code !== "UNAUTHENTICATED" || this.#refusal || !this.#context.credential.isAskedAnew) {
      return false;
    }
    this.#refusal = { key: this.#key, error };
    return true;
  }

  /** Whether the token is lost; then the next stream begins with a snapshot. */
  #mustStartOver(error: RewardError): boolean {
    if (error.code !== "OUT_OF_RANGE" || !this.#token) {
      return false;
    }
    this.#token = "";
    this.#request.start = StreamStart.SNAPSHOT;
    this.#request.resumeToken = "";
    // After a restore from a backup versions count again from an earlier one.
    this.#versions.clear();
    return true;
  }

  /** Waits before the next connection. Throws the error when there should be none. */
  async #pause(error: RewardError): Promise<void> {
    const { backoff, giveUpAfterMs, signal } = this.#context;
    const now = performance.now();
    if (this.#failures === 0) {
      this.#failingSince = now;
    }
    this.#failures++;
    const delay = pause(backoff, this.#failures, error.retryAfterMs);
    if (
      !isMendable(error) ||
      (isDoubtful(error) && this.#failures >= backoff.attempts) ||
      (giveUpAfterMs !== undefined && now - this.#failingSince + delay > giveUpAfterMs)
    ) {
      throw error;
    }
    await sleep(delay, signal);
  }

  /** The event for a message; undefined for repeats and for kinds that this version doesn't know. */
  #take({ message }: StreamOrderUpdatesResponse): WatchEvent | undefined {
    switch (message.case) {
      case "update": {
        const { order, resumeToken } = message.value;
        this.#advance(resumeToken);
        return order && this.#isNew(order) ? discreet({ type: "update", order, resumeToken }) : undefined;
      }
      case "snapshot": {
        const { order } = message.value;
        return order && this.#isNew(order) ? discreet({ type: "snapshot", order }) : undefined;
      }
      case "snapshotEnd":
        this.#inSnapshot = false;
        this.#advance(message.value.resumeToken);
        return { type: "snapshotEnd", resumeToken: message.value.resumeToken };
      case "heartbeat":
        if (this.#inSnapshot) {
          return undefined;
        }
        this.#advance(message.value.resumeToken);
        return { type: "heartbeat", resumeToken: message.value.resumeToken };
      default:
        return undefined;
    }
  }

  #advance(token: string): void {
    // Until the snapshot is complete no token stands for it: continuing there would skip the rest of it.
    if (token && !this.#inSnapshot) {
      this.#token = token;
    }
  }

  #isNew({ orderId, version }: Order): boolean {
    if (version <= (this.#versions.get(orderId) ?? 0n)) {
      return false;
    }
    // A Map keeps the order of insertion, so the first key is the one that changed the longest time ago.
    this.#versions.delete(orderId);
    this.#versions.set(orderId, version);
    const [oldest] = this.#versions.keys();
    if (this.#versions.size > REMEMBERED && oldest !== undefined) {
      this.#versions.delete(oldest);
    }
    return true;
  }
}

const CONTINUES: ReadonlySet<StreamStart> = new Set([StreamStart.UNSPECIFIED, StreamStart.AFTER]);
const BEGINS_WITH_SNAPSHOT: ReadonlySet<StreamStart> = new Set([StreamStart.UNSPECIFIED, StreamStart.SNAPSHOT]);

/** Whether a new connection may mend it. A stream has no deadline of ours, so a deadline is a proxy's. */
function isMendable(error: RewardError): boolean {
  return isRetryable(error) || error.code === "DEADLINE_EXCEEDED" || error.reason === "READER_TOO_SLOW";
}
