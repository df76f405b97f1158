import { isIP } from "node:net";

const VARIABLE = "REWARDSERVICE_KEY";
const DEV_KEY = "dev-key";

/** The key to use: the given one, else the environment's, else the development key on this machine. */
export function usableKey(target: string, key: string | undefined): string {
  const chosen = key ?? process.env[VARIABLE] ?? (isLoopback(target) ? DEV_KEY : "");
  if (chosen === "") {
    throw new TypeError(`no API key for ${target}: give \`key\` or set ${VARIABLE}`);
  }
  // Anything else is refused deep inside gRPC with the key in the message.
  if (!/^[!-~]+$/.test(chosen)) {
    throw new TypeError("an API key consists of printable ASCII characters without spaces");
  }
  return chosen;
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
