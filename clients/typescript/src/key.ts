import { isIP } from "node:net";
import { RewardError } from "./errors.js";

const VARIABLE = "REWARDSERVICE_KEY";
const DEV_KEY = "dev-key";

/**
 * What says who calls: an API key or a token, or a function that is asked for one anew for each call and each
 * connection of a stream, as for tokens that expire.
 */
export type Key = string | (() => string | Promise<string>);

/** A key as it is used from now on. It is kept in closures, where no way of printing a client finds it. */
export interface Credential {
  /**
   * What to send; undefined for nothing. Rejects with what the caller's function throws, with TypeError for an odd
   * answer, with DEADLINE_EXCEEDED for a late one, and with the signal's reason.
   */
  readonly ask: (timeoutMs: number, signal: AbortSignal) => Promise<string | undefined>;
  /** Whether it may be another one the next time. */
  readonly isAskedAnew: boolean;
}

/**
 * The key to use: the given one, else the environment's, else none beside a certificate of the client's own, else the
 * development key on this machine.
 */
export function credential(target: string, key: Key | undefined, isCertified: boolean): Credential {
  if (typeof key === "function") {
    return {
      ask: async (timeoutMs, signal) => usable(await inTime(key, timeoutMs, signal)),
      isAskedAnew: true,
    };
  }
  const fallback = isLoopback(target) ? DEV_KEY : "";
  const chosen = key ?? (process.env[VARIABLE] || (isCertified ? undefined : fallback));
  if (chosen === "") {
    throw new TypeError(`no API key for ${target}: give \`key\` or set ${VARIABLE}`);
  }
  const sent = chosen === undefined ? undefined : usable(chosen);
  return { ask: () => Promise.resolve(sent), isAskedAnew: false };
}

function usable(key: string): string {
  // Anything else is refused deep inside gRPC with the key in the message.
  if (typeof key !== "string" || !/^[!-~]+$/.test(key)) {
    throw new TypeError("an API key consists of printable ASCII characters without spaces");
  }
  return key;
}

/** What a function brings; rejects when that takes too long, and with the signal's reason when it is aborted. */
async function inTime<T>(function_: () => T | Promise<T>, timeoutMs: number, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let stop = () => {};
  const ended = new Promise<never>((_, reject) => {
    const abort = () => reject(signal.reason);
    const late = () => reject(new RewardError("`key` brought nothing in time", "DEADLINE_EXCEEDED"));
    const timer = setTimeout(late, timeoutMs);
    signal.addEventListener("abort", abort);
    stop = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    };
  });
  try {
    return await Promise.race([function_(), ended]);
  } finally {
    stop();
  }
}

/** Whether a gRPC target never leaves this machine, as far as its name tells. */
export function isLoopback(target: string): boolean {
  if (/^unix(-abstract)?:/.test(target)) {
    return true;
  }
  const address = target.replace(/^(dns|ipv4|ipv6):/, "").replace(/^.*\//, "");
  const host = /^\[(.*?)\]/.exec(address)?.[1] ?? address.replace(/:.*$/, "");
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
