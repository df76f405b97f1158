import { setTimeout as wait } from "node:timers/promises";

/** How long to wait before trying again: exponential, with full jitter. Times are milliseconds. */
export interface Backoff {
  /** The first pause at its longest. Default 500. */
  readonly initialMs: number;
  /** The longest pause, but for what the server asks. Default 10,000. */
  readonly maxMs: number;
  /** How often a unary call is made in all (streams go on). Default 30. */
  readonly attempts: number;
}

export const DEFAULT_BACKOFF: Backoff = { initialMs: 500, maxMs: 10_000, attempts: 30 };

const MOST_DOUBLINGS = 30;

/** Milliseconds to wait after so many failures in a row (from 1), never less than what the server asked for. */
export function pause(backoff: Backoff, failures: number, atLeastMs = 0): number {
  const span = Math.min(backoff.maxMs, backoff.initialMs * 2 ** Math.min(failures - 1, MOST_DOUBLINGS));
  // Jitter comes on top of what the server asked for, so that those who were told the same don't come back together.
  return atLeastMs + span * Math.random();
}

/** Waits; throws the signal's reason when it is aborted. */
export async function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  try {
    await wait(milliseconds, undefined, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}
