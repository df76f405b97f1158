import type { DescMessage, DescMethodUnary, MessageShape } from "@bufbuild/protobuf";
import { type Backoff, pause, sleep } from "./backoff.js";
import type { Connection } from "./connection.js";
import { fromFailure, isRetryable } from "./errors.js";

/** What a unary call needs to know. */
export interface CallContext {
  /** The connection to use, asked for before every try. */
  readonly connection: () => Connection;
  /** Told of a connection whose call wasn't answered in time. */
  readonly unanswered: (connection: Connection) => void;
  readonly backoff: Backoff;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** Calls until an answer comes, within the time-out in all. Throws RewardError, or the signal's reason. */
export async function call<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageShape<I>,
  { connection, unanswered, backoff, timeoutMs, signal }: CallContext,
): Promise<MessageShape<O>> {
  const deadline = performance.now() + timeoutMs;
  for (let failures = 1; ; failures++) {
    const current = connection();
    try {
      return await current.unary(method, request, { timeoutMs: deadline - performance.now(), signal });
    } catch (failure) {
      signal.throwIfAborted();
      const error = fromFailure(failure);
      if (error.code === "DEADLINE_EXCEEDED") {
        unanswered(current);
      }
      const delay = pause(backoff, failures, error.retryAfterMs);
      if (!isRetryable(error) || failures >= backoff.attempts || performance.now() + delay >= deadline) {
        throw error;
      }
      await sleep(delay, signal);
    }
  }
}
