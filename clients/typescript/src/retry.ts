import type { DescMessage, DescMethodUnary, MessageShape } from "@bufbuild/protobuf";
import { type Backoff, pause, sleep } from "./backoff.js";
import type { Connection } from "./connection.js";
import { fromFailure, isRetryable, RewardError } from "./errors.js";
import type { Credential } from "./key.js";

/** What a unary call needs to know. */
export interface CallContext {
  /** Who calls, asked for before every try. */
  readonly credential: Credential;
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
  { credential, connection, unanswered, backoff, timeoutMs, signal }: CallContext,
): Promise<MessageShape<O>> {
  const deadline = performance.now() + timeoutMs;
  for (let failures = 1; ; failures++) {
    let current: Connection | undefined;
    try {
      const key = await credential.ask(deadline - performance.now(), signal);
      current = connection();
      return await current.unary(method, request, { key, timeoutMs: deadline - performance.now(), signal });
    } catch (failure) {
      signal.throwIfAborted();
      const error = failure instanceof RewardError ? failure : fromFailure(failure);
      if (error.code === "DEADLINE_EXCEEDED" && current !== undefined) {
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
