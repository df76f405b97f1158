import {
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type ChannelCredentials,
  type ChannelOptions,
  Client,
  connectivityState,
  credentials,
  Metadata,
} from "@grpc/grpc-js";
import { VERSION } from "./version.js";

/** How to speak TLS. Certificates and keys are PEM, as text or bytes (`readFileSync(file)`). */
export interface TlsOptions {
  /** The authorities to trust. Default: those that Node.js trusts. */
  readonly ca?: string | Uint8Array;
  /** The client's own certificate and its key, for mutual TLS: both or none. */
  readonly cert?: string | Uint8Array;
  readonly key?: string | Uint8Array;
  /** The name in the server's certificate where it differs from the target. */
  readonly serverName?: string;
}

/** Where to connect, and how. */
export interface Address {
  readonly target: string;
  readonly tls: TlsOptions | boolean;
  readonly channelOptions: ChannelOptions;
}

/** A stream of the server's messages, read one by one. */
export interface Incoming<T> {
  /** The next message; rejects with a failure of gRPC, also after `cancel`. */
  next(): Promise<IteratorResult<T, unknown>>;
  cancel(): void;
}

// Bytes of an answer. The largest one is a page of 1,000 updates with all their cards.
const MAX_RECEIVE = 64 * 1024 * 1024;
// Bytes of a request; the server takes no more.
const MAX_SEND = 256 * 1024;

/** One gRPC channel with a connection of its own: generated methods in, promises and failures of gRPC out. */
export class Connection {
  readonly #client: Client;

  constructor(address: Address) {
    const tls = address.tls === true ? {} : address.tls || undefined;
    this.#client = new Client(address.target, channelCredentials(tls), {
      // A pulled cable or a forgetful firewall is noticed after 20 + 10 s instead of hours, on quiet streams too.
      "grpc.keepalive_time_ms": 20_000,
      "grpc.keepalive_timeout_ms": 10_000,
      "grpc.keepalive_permit_without_calls": 1,
      // gRPC's own pauses between connection attempts grow to two minutes: a server that is back would wait for us.
      "grpc.initial_reconnect_backoff_ms": 200,
      "grpc.max_reconnect_backoff_ms": 5_000,
      "grpc.max_receive_message_length": MAX_RECEIVE,
      "grpc.max_send_message_length": MAX_SEND,
      "grpc.primary_user_agent": `reward-service-typescript/${VERSION}`,
      // Else gRPC shares a connection between equal channels, and one that is left would be found again.
      "grpc.use_local_subchannel_pool": 1,
      ...(tls?.serverName && {
        "grpc.ssl_target_name_override": tls.serverName,
        "grpc.default_authority": tls.serverName,
      }),
      ...address.channelOptions,
    });
  }

  /** Calls a method once, with the key if there is one. Rejects with a failure of gRPC, or with the signal's reason. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    { key, timeoutMs, signal }: { key: string | undefined; timeoutMs: number; signal: AbortSignal },
  ): Promise<MessageShape<O>> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const cancel = () => call.cancel();
      const call = this.#client.makeUnaryRequest(
        path(method),
        asTheyAre,
        decoder(method.output),
        encode(method.input, request),
        signed(key),
        { deadline: Date.now() + timeoutMs },
        (failure, answer) => {
          signal.removeEventListener("abort", cancel);
          if (answer !== undefined) {
            resolve(answer);
          } else {
            reject(signal.aborted ? signal.reason : failure);
          }
        },
      );
      signal.addEventListener("abort", cancel);
    });
  }

  /** Opens a stream, with the key if there is one. It has no deadline. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageShape<I>,
    key: string | undefined,
  ): Incoming<MessageShape<O>> {
    const call = this.#client.makeServerStreamRequest(
      path(method),
      asTheyAre,
      decoder(method.output),
      encode(method.input, request),
      signed(key),
    );
    const messages: AsyncIterator<MessageShape<O>> = call[Symbol.asyncIterator]();
    // `next` tells of the failure; without a listener one that comes between two calls of it would end the process.
    call.on("error", () => {});
    return { next: () => messages.next(), cancel: () => call.cancel() };
  }

  /** Whether it is being made for the first time or anew: gRPC for Node.js waits for ever for one that says nothing. */
  get isConnecting(): boolean {
    return this.#client.getChannel().getConnectivityState(false) === connectivityState.CONNECTING;
  }

  close(): void {
    this.#client.close();
  }
}

/** Whether the client shows a certificate of its own. */
export function isCertified(tls: TlsOptions | boolean): boolean {
  return typeof tls === "object" && tls.cert !== undefined;
}

function signed(key: string | undefined): Metadata {
  const metadata = new Metadata();
  if (key !== undefined) {
    metadata.set("authorization", `Bearer ${key}`);
  }
  return metadata;
}

function path({ parent, name }: DescMethod): string {
  return `/${parent.typeName}/${name}`;
}

// Encoded here and not inside of gRPC, who would take an argument of the wrong type for a failure of the server.
function encode<I extends DescMessage>(schema: I, request: MessageShape<I>): Buffer {
  return Buffer.from(toBinary(schema, request));
}

function asTheyAre(bytes: Buffer): Buffer {
  return bytes;
}

function decoder<O extends DescMessage>(schema: O): (bytes: Buffer) => MessageShape<O> {
  return (bytes) => fromBinary(schema, bytes);
}

function channelCredentials(tls: TlsOptions | undefined): ChannelCredentials {
  if (tls === undefined) {
    return credentials.createInsecure();
  }
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    throw new TypeError("tls.cert and tls.key go together");
  }
  return credentials.createSsl(bytes(tls.ca), bytes(tls.key), bytes(tls.cert));
}

function bytes(pem: string | Uint8Array | undefined): Buffer | null {
  return pem === undefined ? null : Buffer.from(pem);
}
