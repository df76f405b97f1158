import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import { type ServiceError, status } from "@grpc/grpc-js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import type { Order } from "./gen/rewardservice/v1/order_pb.js";

/** The name of a gRPC status code, as in "NOT_FOUND". */
export type Code = Exclude<keyof typeof status, "OK">;

/** One field of a request that the server refused. */
export interface FieldViolation {
  /** Its path in the contract, as in "recipient.phone.number". */
  readonly field: string;
  /** How to mend it. */
  readonly description: string;
}

interface Details {
  readonly reason?: string;
  readonly violations?: readonly FieldViolation[];
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfterMs?: number | undefined;
  readonly requestId?: string;
}

const DOMAIN = "rewardservice.v1";

/**
 * What went wrong with a call. Decide by `code` and `reason`; the message is for people and may change.
 *
 * An order whose outcome is unknown is never an error: the call succeeds and `Order.state` says so. After an
 * UNAVAILABLE or a DEADLINE_EXCEEDED of `createOrder` the order may exist; call again with the same `clientOrderId`.
 */
export class RewardError extends Error {
  override readonly name: string = "RewardError";
  /** The gRPC status. CANCELLED means that something on the way dropped the call, not that the caller did. */
  readonly code: Code;
  /** A name of `ErrorReason`; empty when the error was not made by the service itself but on the way to it. */
  readonly reason: string;
  /** Every wrong field of the request (INVALID_ARGUMENT). */
  readonly violations: readonly FieldViolation[];
  /** What the reason adds, as in `metadata.fields` of CLIENT_ORDER_ID_REUSED. */
  readonly metadata: Readonly<Record<string, string>>;
  /** How long the server asked to wait before trying again. */
  readonly retryAfterMs: number | undefined;
  /** What finds the call in the server's log. */
  readonly requestId: string;
  /** On errors of `createOrder` the id to try again with. */
  clientOrderId: string | undefined = undefined;

  constructor(message: string, code: Code, details: Details = {}) {
    super(message);
    this.code = code;
    this.reason = details.reason ?? "";
    this.violations = details.violations ?? [];
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
    this.requestId = details.requestId ?? "";
  }
}

/** `waitFor` ended before the order did. The order goes on. */
export class WaitTimeoutError extends RewardError {
  override readonly name = "WaitTimeoutError";
  /** The order as last seen; undefined if it was never seen. Left out when the error is printed: it may hold cards. */
  declare readonly order: Order | undefined;

  constructor(message: string, order: Order | undefined) {
    super(message, "DEADLINE_EXCEEDED");
    Object.defineProperty(this, "order", { value: order, enumerable: false });
  }
}

/** The client was closed, before the call or during it. */
export class ClosedError extends RewardError {
  override readonly name = "ClosedError";

  constructor() {
    super("the client is closed", "CANCELLED");
  }
}

/** Whether the same request may succeed a little later. Safe for every call: creating is idempotent by its id. */
export function isRetryable(error: RewardError): boolean {
  return (
    error.code === "UNAVAILABLE" ||
    // A cancel of the caller's own never becomes a RewardError, so this one came from a full server or a proxy.
    error.code === "CANCELLED" ||
    (error.code === "RESOURCE_EXHAUSTED" && error.retryAfterMs !== undefined) ||
    isDoubtful(error)
  );
}

/**
 * Whether the error came from the way rather than from the service, so that it's worth a few more tries: every error of
 * the service itself has a reason.
 */
export function isDoubtful(error: RewardError): boolean {
  return (error.code === "INTERNAL" || error.code === "UNKNOWN") && error.reason === "";
}

// What the transport says by itself is written for those who build transports.
const TRANSPORT_WORDS: Partial<Record<Code, string>> = {
  UNAVAILABLE: "the server can't be reached",
  CANCELLED: "the server dropped the call before answering",
  DEADLINE_EXCEEDED: "no answer in time",
};

/**
 * The error for a failed call, with everything that the server said about it. What isn't a failure of gRPC is
 * thrown.
 */
export function fromFailure(failure: unknown): RewardError {
  if (!isServiceError(failure)) {
    throw failure;
  }
  const code = codeName(failure.code);
  const details = read(failure);
  const said = failure.details;
  if (details.reason) {
    return new RewardError(sentence(said || "the call failed", details.violations), code, details);
  }
  const words = TRANSPORT_WORDS[code];
  return new RewardError(words && said ? `${words}: ${said}` : words || said || "the call failed", code, details);
}

function isServiceError(failure: unknown): failure is ServiceError {
  return failure instanceof Error && "code" in failure && typeof failure.code === "number" && "metadata" in failure;
}

function codeName(code: number): Code {
  const name: string | undefined = status[code];
  return name === undefined || name === "OK" ? "UNKNOWN" : (name as Code);
}

/** The message with the violations that it doesn't name itself: a server with one complaint makes it the message. */
function sentence(message: string, violations: readonly FieldViolation[] = []): string {
  const others = violations.filter(({ description }) => !message.includes(description));
  return message + others.map(({ field, description }) => `; ${field}: ${description}`).join("");
}

function read(failure: ServiceError): Details {
  let reason = "";
  let metadata: Record<string, string> = {};
  const violations: FieldViolation[] = [];
  let retryAfterMs: number | undefined;
  for (const detail of richStatus(failure)) {
    try {
      const info = anyUnpack(detail, ErrorInfoSchema);
      if (info?.domain === DOMAIN) {
        ({ reason, metadata } = info);
      }
      const bad = anyUnpack(detail, BadRequestSchema);
      violations.push(...(bad?.fieldViolations ?? []).map(({ field, description }) => ({ field, description })));
      const delay = anyUnpack(detail, RetryInfoSchema)?.retryDelay;
      if (delay) {
        retryAfterMs = Math.max(0, durationMs(delay));
      }
    } catch {
      // A detail that can't be decoded takes nothing away from the others.
    }
  }
  const [requestId = metadata["request_id"] ?? ""] = failure.metadata.get("x-request-id");
  return { reason, metadata, violations, retryAfterMs, requestId: requestId.toString() };
}

/**
 * The details of an error; none when there are none, or none that can be read: code and text still say what
 * happened.
 */
function richStatus(failure: ServiceError) {
  const [bytes] = failure.metadata.get("grpc-status-details-bin");
  try {
    return bytes instanceof Uint8Array ? fromBinary(StatusSchema, bytes).details : [];
  } catch {
    return [];
  }
}
